//! What Multipass can do beyond starting and stopping: suspend, snapshots, clones, other sizes. All but suspending is
//! for instances that are stopped.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use golem_vm_protocol::vm::SnapshotName;

use super::Multipass;
use super::MultipassBackend;
use super::asking::{Now, Own};
use super::books::{Attempt, Identity};
use super::names::Name;
use super::program::CallError;
use super::reading::{self, State};
use super::said::Trouble;
use super::version::Version;
use crate::backend::{
    BackendError, CloneInstance, InstanceId, InstanceSpec, Limits, NotifyGuest, Resize,
    SnapshotInfo, Snapshots, Suspend,
};

/// Before the names of snapshots: a name begins with a letter in Multipass.
const SNAPSHOT: &str = "s-";

impl Multipass {
    async fn there(&self, id: InstanceId) -> Result<Own, BackendError> {
        match self.now(id.vm()).await? {
            Now::There(own, _) => Ok(own),
            Now::Nothing | Now::Hidden(_) => Err(BackendError::NoInstance(id)),
        }
    }

    async fn needs(&self, has: fn(Version) -> bool, what: &str) -> Result<(), BackendError> {
        let version = self.version().await.map_err(|error| error.into_backend(what))?;
        if has(version) {
            return Ok(());
        }
        Err(BackendError::Failed(format!(
            "{what}: Multipass {version} has no such command; a newer one has"
        )))
    }

    async fn listed_snapshots(&self, name: &Name) -> Result<Vec<reading::Snapshot>, BackendError> {
        let what = format!("can't list the snapshots of {name}");
        let arguments = ["info", name.as_str(), "--snapshots", "--format", "json"];
        let said = self.program.call(&arguments, b"", self.pace.query).await;
        let text = said.map_err(|error| error.into_backend(&what))?;
        let all = reading::snapshots(&text, name.as_str());
        all.map_err(|error| CallError::Unreadable(error).into_backend(&what))
    }

    /// Has a stopped instance have the limits that are written down for it. They hold from its next boot on.
    pub(super) async fn set_limits(&self, name: &Name) -> Result<(), BackendError> {
        let book = self.books.of(name.vm());
        let Some(limits) = book.limits.filter(|_| !book.limits_are_set) else { return Ok(()) };
        let what = format!("can't give {name} its size");
        let wanted = [
            ("cpus", super::vcpus(&limits).to_string()),
            ("memory", format!("{}M", limits.memory_mib)),
            ("disk", format!("{}M", limits.storage_mib)),
        ];
        for (key, value) in wanted {
            let setting = format!("local.{name}.{key}={value}");
            match self.change(&["set", &setting], self.pace.change).await {
                Ok(()) => {}
                // It has this size already, or an earlier call was interrupted behind it.
                Err(CallError::Refused { message, .. })
                    if key == "disk" && message.contains("can only be expanded") => {}
                Err(error) => return Err(error.into_backend(&what)),
            }
        }
        self.write(name.vm(), |book| book.limits_are_set |= book.limits == Some(limits)).map(drop)
    }

    /// Gives a clone that runs its own identity, in place of its source's.
    pub(super) async fn take_identity(&self, name: &Name) -> Result<(), BackendError> {
        let Some(identity) = self.books.of(name.vm()).identity else { return Ok(()) };
        let began = std::time::Instant::now();
        loop {
            match self.put_identity(name, &identity).await {
                Ok(()) => break,
                Err(error) if began.elapsed() > self.pace.verify => {
                    return Err(
                        error.into_backend(&format!("can't give {name} an identity of its own"))
                    );
                }
                Err(_) => tokio::time::sleep(self.pace.poll).await,
            }
        }
        self.write(name.vm(), |book| book.identity = None).map(drop)
    }
}

#[async_trait]
impl Suspend for MultipassBackend {
    async fn suspend(&self, id: InstanceId) -> Result<(), BackendError> {
        let own = self.0.there(id).await?;
        if own.state.is_down() {
            return Ok(());
        }
        // Before it is done, so that nobody takes it for the daemon's doing.
        self.0.write(id.vm(), |book| book.suspended = true)?;
        let said = self.0.change(&["suspend", own.name.as_str()], self.0.pace.change).await;
        let ended = self.0.wait_for(&own.name, self.0.pace.poll * 5, State::is_down).await;
        if let Err(error) = ended {
            self.0.write(id.vm(), |book| book.suspended = false)?;
            return Err(said
                .err()
                .map_or(error, |said| said.into_backend(&format!("can't suspend {}", own.name))));
        }
        self.0.firewall.dismiss(id.vm()).await.map_err(super::not_contained)
    }

    async fn forget(&self, id: InstanceId) -> Result<(), BackendError> {
        let own = self.0.there(id).await?;
        if !matches!(own.state, State::Suspended | State::Suspending) {
            return Ok(());
        }
        let version = self.0.version().await;
        if version.map_err(|error| error.into_backend("can't ask Multipass"))?.can_force() {
            self.0.switch_off(&own.name).await?;
        } else {
            // Only by letting it go on: nothing else throws the memory away.
            self.0.start(id).await?;
            self.0.stop(id, Duration::from_secs(10)).await?;
        }
        self.0.write(id.vm(), |book| book.suspended = false).map(drop)
    }
}

#[async_trait]
impl Snapshots for MultipassBackend {
    async fn create(&self, id: InstanceId, name: &SnapshotName) -> Result<(), BackendError> {
        let what = format!("can't make the snapshot {name}");
        self.0.needs(Version::has_snapshots, &what).await?;
        let own = self.0.there(id).await?;
        let snapshot = format!("{SNAPSHOT}{name}");
        if self.0.listed_snapshots(&own.name).await?.iter().any(|one| one.name == snapshot) {
            return Ok(());
        }
        let arguments = ["snapshot", own.name.as_str(), "--name", &snapshot];
        let said = self.0.change(&arguments, self.0.pace.change).await;
        // What is there decides.
        let is_there =
            self.0.listed_snapshots(&own.name).await?.iter().any(|one| one.name == snapshot);
        if !is_there {
            return Err(match said {
                Err(error) => error.into_backend(&what),
                Ok(()) => BackendError::Failed(format!(
                    "{what}: Multipass says that it did, and does not list it"
                )),
            });
        }
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.0
            .write(id.vm(), |book| {
                book.snapshots.insert(name.to_string(), now.as_secs());
            })
            .map(drop)
    }

    async fn list(&self, id: InstanceId) -> Result<Vec<SnapshotInfo>, BackendError> {
        let own = self.0.there(id).await?;
        let made: BTreeMap<String, u64> = self.0.books.of(id.vm()).snapshots;
        let mut all: Vec<SnapshotInfo> = self
            .0
            .listed_snapshots(&own.name)
            .await?
            .into_iter()
            .filter_map(|one| {
                let name: SnapshotName = one.name.strip_prefix(SNAPSHOT)?.parse().ok()?;
                // Multipass's own words for the time differ from release to release.
                let seconds = made.get(name.as_str()).copied().unwrap_or(0);
                Some(SnapshotInfo {
                    created_at: SystemTime::UNIX_EPOCH + Duration::from_secs(seconds),
                    name,
                    bytes: one.size,
                    with_memory: false,
                })
            })
            .collect();
        all.sort_by_key(|one| one.created_at);
        Ok(all)
    }

    async fn restore(&self, id: InstanceId, name: &SnapshotName) -> Result<(), BackendError> {
        let what = format!("can't go back to the snapshot {name}");
        self.0.needs(Version::has_snapshots, &what).await?;
        let own = self.0.there(id).await?;
        let snapshot = format!("{SNAPSHOT}{name}");
        if !self.0.listed_snapshots(&own.name).await?.iter().any(|one| one.name == snapshot) {
            return Err(BackendError::NoSnapshot(name.clone()));
        }
        if own.state == State::Suspended {
            self.forget(id).await?;
        }
        // The sizes go back too, and so does who may log in: both are put right before it is used.
        self.0.write(id.vm(), |book| {
            book.limits_are_set = false;
            book.keys = book.keys.take().or_else(|| book.granted.clone());
        })?;
        let target = format!("{}.{snapshot}", own.name);
        let said = self.0.change(&["restore", "--destructive", &target], self.0.pace.change).await;
        said.map_err(|error| error.into_backend(&what))?;
        self.0.set_limits(&own.name).await
    }

    async fn remove(&self, id: InstanceId, name: &SnapshotName) -> Result<(), BackendError> {
        let own = self.0.there(id).await?;
        let target = format!("{}.{SNAPSHOT}{name}", own.name);
        let is_there = |all: Vec<reading::Snapshot>| {
            all.iter().any(|one| one.name == format!("{SNAPSHOT}{name}"))
        };
        if is_there(self.0.listed_snapshots(&own.name).await?) {
            match self.0.change(&["delete", "--purge", &target], self.0.pace.change).await {
                Err(error) if error.trouble() != Some(Trouble::Absent) => {
                    return Err(error.into_backend(&format!("can't remove the snapshot {name}")));
                }
                _ => {}
            }
        }
        self.0
            .write(id.vm(), |book| {
                book.snapshots.remove(name.as_str());
            })
            .map(drop)
    }
}

#[async_trait]
impl CloneInstance for MultipassBackend {
    async fn ensure_clone(
        &self,
        source: InstanceId,
        spec: &InstanceSpec,
    ) -> Result<(), BackendError> {
        let vm = spec.id.vm();
        let what = format!("can't clone {source}");
        self.0.needs(Version::can_clone, &what).await?;
        match self.0.now(vm).await? {
            Now::There(_, attempt) if attempt.came_up => return Ok(()),
            // Half-made: nothing in it was anybody's.
            Now::There(_, attempt) => self.0.give_up(vm, &attempt).await?,
            Now::Hidden(_) => drop(self.0.write(vm, super::books::Book::abandon)?),
            Now::Nothing => {}
        }
        let original = self.0.there(source).await?;
        let name = Name::fresh(&self.0.provider, vm).map_err(BackendError::Failed)?;
        let identity = spec.access.as_ref().map(|access| Identity {
            hostname: spec.hostname.to_string(),
            host_key_private: access.host_key_private.clone(),
            host_key: access.host_key.clone(),
        });
        self.0.write(vm, |book| {
            book.current = Some(Attempt::begun_now(name.to_string()));
            book.identity = identity;
            book.granted = spec.access.as_ref().map(|access| access.authorized_keys.clone());
            book.keys = book.granted.clone();
            (book.limits, book.limits_are_set) = (Some(spec.limits), false);
        })?;
        let arguments = ["clone", original.name.as_str(), "--name", name.as_str()];
        // It copies the disk.
        let said = self.0.change(&arguments, self.0.pace.launch).await;
        match (self.0.now(vm).await?, said) {
            (Now::There(own, _), Ok(())) => {
                self.0.set_limits(&own.name).await?;
                self.0.came_up(&name)
            }
            (Now::There(_, attempt), Err(error)) => {
                self.0.give_up(vm, &attempt).await?;
                Err(error.into_backend(&what))
            }
            (_, Err(error)) if error.trouble() == Some(Trouble::Absent) => {
                Err(BackendError::NoInstance(source))
            }
            (_, Err(error)) => Err(error.into_backend(&what)),
            (_, Ok(())) => Err(BackendError::Failed(format!(
                "{what}: Multipass says that it did, and does not list it"
            ))),
        }
    }
}

#[async_trait]
impl Resize for MultipassBackend {
    async fn resize(&self, id: InstanceId, limits: Limits) -> Result<(), BackendError> {
        let own = self.0.there(id).await?;
        let before = self.0.books.of(id.vm()).limits;
        if before.is_some_and(|before| limits.storage_mib < before.storage_mib) {
            return Err(BackendError::Failed("a disk can only become larger".to_owned()));
        }
        if before == Some(limits) && self.0.books.of(id.vm()).limits_are_set {
            return Ok(());
        }
        self.0.write(id.vm(), |book| (book.limits, book.limits_are_set) = (Some(limits), false))?;
        // Else when it boots next.
        if own.state == State::Stopped {
            self.0.set_limits(&own.name).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl NotifyGuest for MultipassBackend {
    async fn notify(&self, id: InstanceId, line: &str) -> Result<(), BackendError> {
        let own = self.0.there(id).await?;
        if own.state != State::Running {
            return Ok(());
        }
        let said = self.0.show(&own.name, line).await;
        said.map_err(|error| error.into_backend(&format!("can't tell those in {id} anything")))
    }
}
