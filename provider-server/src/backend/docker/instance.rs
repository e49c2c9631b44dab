//! The life of one container.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bollard::models::{
    ContainerInspectResponse, ContainerStateStatusEnum as Status, ContainerSummary,
    NetworkConnectRequest, NetworkDisconnectRequest,
};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, ListContainersOptionsBuilder, RemoveContainerOptionsBuilder,
    StopContainerOptionsBuilder, UploadToContainerOptionsBuilder,
};
use golem_vm_protocol::KeyId;
use golem_vm_protocol::vm::SshPublicKey;

use super::engine::{CHANGE, CallError, Engine, QUERY};
use super::identity::Identity;
use super::observation::{self, Seen, ever_ran, exit_code, is_going, is_idle, label, status};
use super::probe::EngineTraits;
use super::spec::Network;
use super::{disk, files, network, spec, tags};
use crate::backend::{BackendError, Egress, InstanceId, InstanceSpec, Observation};

/// The image's init ends with this when there is no host key in the container.
const NO_HOST_KEY: i64 = 78;

/// How much longer than its grace period a stop may take.
const STOP_MARGIN: Duration = Duration::from_secs(30);

/// How long a removal that somebody else began may take.
const REMOVAL: Duration = Duration::from_secs(60);
const REMOVAL_POLL: Duration = Duration::from_millis(200);

/// How often a half-made container is removed and made again before giving up.
const ATTEMPTS: usize = 3;

/// The containers of one provider on one engine.
#[derive(Debug, Clone, Copy)]
pub(super) struct Instances<'a> {
    pub(super) engine: &'a Engine,
    pub(super) provider: &'a KeyId,
    pub(super) identity: &'a Identity,
}

impl Instances<'_> {
    /// See [`crate::backend::Backend::ensure`].
    ///
    /// What a crash can leave: nothing; a container without its files, which never ran (or ran and
    /// found no host key): they are put into it again; a container that never ran and was made from
    /// another spec: it is made anew. One that ran holds somebody's data, and is left as it is.
    pub(super) async fn ensure(
        self,
        wanted: &InstanceSpec,
        network: Network<'_>,
        traits: EngineTraits,
        disk: &disk::Tried,
    ) -> Result<(), BackendError> {
        let what = format!("can't create the container {}", wanted.id);
        for _ in 0..ATTEMPTS {
            let found = self.inspect(wanted.id).await;
            match found.map_err(|error| error.into_backend(&what))? {
                None => match self.create(wanted, network, traits, disk).await {
                    Err(CallError::Refused { status: 404, message })
                        if message.contains("No such image") =>
                    {
                        return Err(BackendError::ImageMissing(wanted.image.to_string()));
                    }
                    // Another container took the name since we looked; or the network was removed.
                    Err(error) if error.is_conflict() => continue,
                    Err(error) => return Err(error.into_backend(&what)),
                    Ok(()) => {
                        let noted = self.identity.has_instances(self.engine).await;
                        noted.map_err(|error| error.into_backend(&what))?;
                    }
                },
                Some(container) => {
                    if !self.owns(&container) {
                        return Err(BackendError::Failed(format!(
                            "{what}: there is one of that name that is not this provider's"
                        )));
                    }
                    // Nothing of its data can be counted on any more.
                    if is_going(&container) {
                        self.destroy(wanted.id).await?;
                        continue;
                    }
                    if label(&container, spec::SPEC) != Some(&spec::fingerprint(wanted)) {
                        if ever_ran(&container) {
                            tracing::warn!(instance = %wanted.id, "made from another spec; left as it is");
                            return Ok(());
                        }
                        self.destroy(wanted.id).await?;
                        continue;
                    }
                    let misses_files = is_idle(&container)
                        && (!ever_ran(&container) || exit_code(&container) == Some(NO_HOST_KEY));
                    if !misses_files {
                        return Ok(());
                    }
                }
            }
            let put = self.put_files(wanted).await;
            return put.map_err(|error| error.into_backend(&what));
        }
        Err(BackendError::Failed(format!("{what}: the name is taken again and again")))
    }

    async fn create(
        self,
        wanted: &InstanceSpec,
        network: Network<'_>,
        traits: EngineTraits,
        disk: &disk::Tried,
    ) -> Result<(), CallError> {
        let failed = |error: BackendError| CallError::Failed(error.to_string());
        let mut body = spec::container(wanted, self.provider, network, traits).map_err(failed)?;
        // Without an image the engine refuses what follows.
        if let Some(image) = tags::inspect(self.engine, wanted.image.as_str()).await? {
            if let Some(reason) = disk::image_is_refused(&image) {
                let text = format!("the image {} can't be used: {reason}", wanted.image);
                return Err(CallError::Failed(text));
            }
            disk.limit(&mut body, wanted.limits.storage_mib, &image).map_err(failed)?;
        }
        let options = CreateContainerOptionsBuilder::new().name(&wanted.id.to_string()).build();
        let made = self
            .engine
            .call(
                CHANGE,
                |docker| async move { docker.create_container(Some(options), body).await },
            )
            .await?;
        for warning in made.warnings {
            tracing::warn!(instance = %wanted.id, warning, "the engine made the container, but");
        }
        Ok(())
    }

    async fn put_files(self, wanted: &InstanceSpec) -> Result<(), CallError> {
        self.put(wanted.id, files::archive(wanted, now())).await
    }

    /// See [`crate::backend::Backend::authorize`].
    ///
    /// The engine unpacks inside the container's own file system: a link that the guest has put in
    /// the way leads nowhere else.
    pub(super) async fn authorize(
        self,
        id: InstanceId,
        keys: &[SshPublicKey],
    ) -> Result<(), BackendError> {
        match self.put(id, files::keys_archive(keys, now())).await {
            Err(error) if error.is_not_found() => Err(BackendError::NoInstance(id)),
            other => other.map_err(|error| {
                error.into_backend(&format!("can't write the SSH keys of the container {id}"))
            }),
        }
    }

    /// Unpacks an archive at the container's `/`.
    async fn put(self, id: InstanceId, archive: std::io::Result<Vec<u8>>) -> Result<(), CallError> {
        let archive = archive.map_err(|error| CallError::Failed(error.to_string()))?;
        let options = UploadToContainerOptionsBuilder::new().path("/").build();
        let name = id.to_string();
        self.engine
            .call(CHANGE, |docker| async move {
                let body = bollard::body_full(archive.into());
                docker.upload_to_container(&name, Some(options), body).await
            })
            .await
    }

    /// See [`crate::backend::Backend::start`].
    pub(super) async fn start(self, id: InstanceId) -> Result<(), BackendError> {
        let what = format!("can't start the container {id}");
        let error = match self.start_once(id).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        let found = self.inspect(id).await.map_err(|error| error.into_backend(&what))?;
        let Some(container) = found.filter(|container| self.owns(container)) else {
            return Err(BackendError::NoInstance(id));
        };
        if status(&container) == Some(Status::PAUSED) {
            let name = id.to_string();
            let resumed = self
                .engine
                .call(CHANGE, |docker| async move { docker.unpause_container(&name).await })
                .await;
            return resumed.map_err(|error| error.into_backend(&what));
        }
        if !(error.says("network") && error.says("not found")) {
            return Err(error.into_backend(&what));
        }
        // Somebody removed the network ("docker network prune" takes those that nothing running
        // uses): a new one takes its place.
        self.reconnect(id, &container).await?;
        self.start_once(id).await.map_err(|error| error.into_backend(&what))
    }

    async fn start_once(self, id: InstanceId) -> Result<(), CallError> {
        let name = id.to_string();
        self.engine
            .call(CHANGE, |docker| async move { docker.start_container(&name, None).await })
            .await
    }

    async fn reconnect(
        self,
        id: InstanceId,
        container: &ContainerInspectResponse,
    ) -> Result<(), BackendError> {
        let what = format!("can't connect the container {id} to its network");
        let egress = match label(container, spec::EGRESS).map(String::as_str) {
            Some("none") => Egress::None,
            _ => Egress::Internet,
        };
        let network = network::ensure(self.engine, self.provider, egress).await?;
        let container = id.to_string();
        let left = self
            .engine
            .call(CHANGE, |docker| {
                let (container, network) = (container.clone(), network.clone());
                async move {
                    let request = NetworkDisconnectRequest { container, force: Some(true) };
                    docker.disconnect_network(&network, request).await
                }
            })
            .await;
        if let Err(error @ CallError::Unavailable(_)) = left {
            return Err(error.into_backend(&what));
        }
        self.engine
            .call(CHANGE, |docker| async move {
                let request = NetworkConnectRequest { container, endpoint_config: None };
                docker.connect_network(&network, request).await
            })
            .await
            .map_err(|error| error.into_backend(&what))
    }

    /// See [`crate::backend::Backend::stop`]. `grace` is rounded up to whole seconds.
    pub(super) async fn stop(self, id: InstanceId, grace: Duration) -> Result<(), BackendError> {
        let seconds = grace.as_secs() + u64::from(grace.subsec_nanos() > 0);
        let seconds = i32::try_from(seconds).unwrap_or(i32::MAX);
        let options = StopContainerOptionsBuilder::new().t(seconds).build();
        let deadline = grace.saturating_add(STOP_MARGIN);
        let (name, what) = (id.to_string(), format!("can't stop the container {id}"));
        let stopped =
            self.engine
                .call(deadline, |docker| async move {
                    docker.stop_container(&name, Some(options)).await
                })
                .await;
        match stopped {
            Err(error) if error.is_not_found() => {
                let confirmed = self.identity.confirm(self.engine, self.provider, false).await;
                confirmed.map_err(|error| error.into_backend(&what))?;
                Err(BackendError::NoInstance(id))
            }
            other => other.map_err(|error| error.into_backend(&what)),
        }
    }

    /// See [`crate::backend::Backend::destroy`]. A container of that name that is not this
    /// provider's is not touched.
    pub(super) async fn destroy(self, id: InstanceId) -> Result<(), BackendError> {
        let what = format!("can't remove the container {id}");
        let found = self.inspect(id).await.map_err(|error| error.into_backend(&what))?;
        let Some(container) = found.filter(|container| self.owns(container)) else {
            return Ok(());
        };
        let removed = self.remove(&id.to_string()).await;
        match removed {
            Err(error) if error.is_conflict() && error.says("in progress") => {
                self.wait_until_gone(id, &what).await?;
            }
            Err(error) if !error.is_not_found() => return Err(error.into_backend(&what)),
            _ => {}
        }
        if let Some(image) = container.image {
            tags::remove_if_superseded(self.engine, &image).await;
        }
        if matches!(self.any().await, Ok(false)) {
            self.identity.has_none();
        }
        Ok(())
    }

    async fn remove(self, name: &str) -> Result<(), CallError> {
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        self.engine
            .call(
                CHANGE,
                |docker| async move { docker.remove_container(name, Some(options)).await },
            )
            .await
    }

    async fn wait_until_gone(self, id: InstanceId, what: &str) -> Result<(), BackendError> {
        let wait = async {
            loop {
                match self.inspect(id).await {
                    Ok(Some(_)) => tokio::time::sleep(REMOVAL_POLL).await,
                    Ok(None) => return Ok(()),
                    Err(error) => return Err(error.into_backend(what)),
                }
            }
        };
        tokio::time::timeout(REMOVAL, wait).await.unwrap_or_else(|_| {
            Err(BackendError::Failed(format!("{what}: its removal goes on and does not end")))
        })
    }

    /// See [`crate::backend::Backend::observe`]; and the guest's end of the network, while it runs.
    pub(super) async fn observe(self, id: InstanceId) -> Result<Seen, BackendError> {
        let found = self
            .inspect(id)
            .await
            .map_err(|error| error.into_backend(&format!("can't look at the container {id}")))?;
        Ok(match found.filter(|container| self.owns(container)) {
            None => (Observation::Absent, None),
            Some(container) => observation::inspected(&container),
        })
    }

    /// See [`crate::backend::Backend::survey`]: one call, however many containers there are.
    pub(super) async fn survey(self) -> Result<BTreeMap<InstanceId, Seen>, BackendError> {
        let failed = |error: CallError| error.into_backend("can't list the containers");
        let containers = self.own().await.map_err(failed)?;
        let seen: BTreeMap<_, _> = containers.iter().filter_map(observation::listed).collect();
        let confirmed = self.identity.confirm(self.engine, self.provider, !seen.is_empty()).await;
        confirmed.map_err(failed)?;
        if !seen.is_empty() {
            self.identity.has_instances(self.engine).await.map_err(failed)?;
        }
        Ok(seen)
    }

    /// Whether any is left.
    pub(super) async fn any(self) -> Result<bool, CallError> {
        Ok(self.own().await?.iter().any(|container| observation::listed(container).is_some()))
    }

    /// All containers with this provider's label.
    async fn own(self) -> Result<Vec<ContainerSummary>, CallError> {
        let label = format!("{}={}", spec::PROVIDER, self.provider);
        let filters = HashMap::from([("label", vec![label])]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        self.engine
            .call(QUERY, |docker| async move { docker.list_containers(Some(options)).await })
            .await
    }

    /// `None` only where it is certain that there is none.
    pub(super) async fn inspect(
        self,
        id: InstanceId,
    ) -> Result<Option<ContainerInspectResponse>, CallError> {
        let name = id.to_string();
        let found = self
            .engine
            .call(QUERY, |docker| async move { docker.inspect_container(&name, None).await })
            .await;
        match found {
            Ok(container) => {
                if self.identity.is_in_doubt() {
                    // It may be the right one again; this one is here in any case.
                    let _ = self.identity.confirm(self.engine, self.provider, true).await;
                }
                Ok(Some(container))
            }
            Err(error) if error.is_not_found() => {
                self.identity.confirm(self.engine, self.provider, false).await?;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn owns(self, container: &ContainerInspectResponse) -> bool {
        label(container, spec::PROVIDER).is_some_and(|owner| *owner == self.provider.to_string())
    }
}

/// Seconds since 1970, for what is put into a container.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs())
}
