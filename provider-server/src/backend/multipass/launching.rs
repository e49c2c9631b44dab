//! Launches an instance, and brings what was begun to an end. `launch` may fail and the instance come up, or
//! succeed late under a name that nobody waits for: so what is there decides, and never how the call ended.

use std::time::Instant;

use golem_vm_protocol::VmId;
use tokio::sync::MutexGuard;
use tokio::time::sleep;

use super::asking::Now;
use super::books::Attempt;
use super::names::Name;
use super::program::{CallError, Said};
use super::reading::State;
use super::said::{self, Trouble};
use super::{Multipass, images};
use crate::backend::{BackendError, InstanceSpec, SshAccess};

/// How often it is tried, each time under another name.
const ATTEMPTS: usize = 3;

/// Why an attempt came to nothing.
enum Failure {
    /// Another attempt may succeed.
    Again(BackendError),
    /// It will not.
    Final(BackendError),
}

impl Multipass {
    /// See [`crate::backend::Backend::ensure`]. Multipass makes no instance without starting it: it runs afterwards.
    pub(super) async fn ensure(&self, spec: &InstanceSpec) -> Result<(), BackendError> {
        let vm = spec.id.vm();
        let mut last = None;
        for _ in 0..ATTEMPTS {
            let outcome = match self.now(vm).await? {
                Now::There(_, attempt) if attempt.came_up => return Ok(()),
                Now::There(own, attempt) => match own.state {
                    // It never came up, so there is nothing in it.
                    State::Stopped | State::Deleted => {
                        self.give_up(vm, &attempt).await?;
                        continue;
                    }
                    _ => self.bring_up(spec, &own.name, false).await,
                },
                Now::Hidden(attempt) => {
                    // The client that launched it is gone; the daemon may be at it still.
                    let left = self.pace.appear.saturating_sub(attempt.age());
                    if !attempt.came_up && self.appears(vm, left).await? {
                        continue;
                    }
                    self.write(vm, super::books::Book::abandon)?;
                    continue;
                }
                Now::Nothing => self.launch(spec).await,
            };
            match outcome {
                Ok(()) => return Ok(()),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Again(error)) => {
                    tracing::warn!(vm = %vm, "launching its instance: {error}; another attempt is made");
                    last = Some(error);
                }
            }
        }
        Err(last.unwrap_or_else(|| {
            BackendError::Failed(format!("the instance of {vm} can't be launched: what is left of earlier attempts is in the way again and again"))
        }))
    }

    /// Waits until the current attempt's instance is to be seen, so long.
    async fn appears(&self, vm: VmId, left: std::time::Duration) -> Result<bool, BackendError> {
        let began = Instant::now();
        while began.elapsed() < left {
            if let Now::There(..) = self.now(vm).await? {
                return Ok(true);
            }
            sleep(self.pace.poll).await;
        }
        Ok(false)
    }

    /// Removes an attempt's instance that never came up.
    pub(super) async fn give_up(&self, vm: VmId, attempt: &Attempt) -> Result<(), BackendError> {
        self.write(vm, |book| {
            if book.is_current(&attempt.name) {
                book.abandon();
            }
        })?;
        let purged = self.purge(&attempt.name).await;
        purged.map_err(|error| error.into_backend(&format!("can't remove {}", attempt.name)))
    }

    async fn launch(&self, spec: &InstanceSpec) -> Result<(), Failure> {
        let vm = spec.id.vm();
        let random = |error| Failure::Final(BackendError::Failed(error));
        let name = Name::fresh(&self.provider, vm).map_err(random)?;
        let image = self.source(&spec.image).map_err(Failure::Final)?;
        let arguments = arguments(spec, &name, &image, self.pace.launch);
        let composed = super::user_data::compose(spec).map_err(|error| {
            let text = format!("the VM's own cloud-init settings can't be used: {error}");
            Failure::Final(BackendError::Failed(text))
        });
        let input = composed?;
        self.write(vm, |book| {
            book.current = Some(Attempt::begun_now(name.to_string()));
            book.has_just_started();
            book.granted = spec.access.as_ref().map(|access| access.authorized_keys.clone());
            (book.limits, book.limits_are_set) = (Some(spec.limits), true);
        })
        .map_err(Failure::Final)?;
        // One launch after the other, until Multipass has it: many at once have crashed it.
        let turn = self.changes.lock().await;
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let call = self.program.run(&arguments, input.as_bytes(), self.pace.launch * 2);
        let said = tokio::select! {
            said = call => said,
            never = self.attend(&name, turn) => match never {},
        };
        let failure = match &said {
            Ok(Said { code: Some(0), .. }) => return self.bring_up(spec, &name, true).await,
            Ok(said) => {
                let (trouble, message) = said::understood(said);
                CallError::Refused { trouble, code: said.code, message }
            }
            Err(error) => error.clone(),
        };
        self.settle_failed(spec, &name, failure).await
    }

    /// Looks, after a launch that failed, what became of it.
    async fn settle_failed(
        &self,
        spec: &InstanceSpec,
        name: &Name,
        failure: CallError,
    ) -> Result<(), Failure> {
        let vm = spec.id.vm();
        let trouble = failure.trouble();
        let may_appear = trouble.is_none_or(Trouble::may_still_appear);
        tracing::debug!(instance = %name, "the launch failed: {failure}");
        let now = self.now(vm).await.map_err(Failure::Final)?;
        let is_there = match now {
            Now::There(own, attempt) => {
                if matches!(own.state, State::Stopped | State::Deleted) {
                    self.give_up(vm, &attempt).await.map_err(Failure::Final)?;
                    return Err(Failure::Final(self.told(spec, failure)));
                }
                true
            }
            _ => may_appear && self.appears(vm, self.pace.appear).await.map_err(Failure::Final)?,
        };
        if is_there {
            return self.bring_up(spec, name, false).await;
        }
        self.write(vm, |book| {
            book.abandon();
            // Nothing was begun at all.
            if !may_appear {
                book.abandoned.retain(|attempt| attempt.name != name.as_str());
            }
        })
        .map_err(Failure::Final)?;
        let again = matches!(
            trouble,
            Some(Trouble::DaemonAway | Trouble::Other | Trouble::Exists | Trouble::BeingPrepared)
        );
        let error = self.told(spec, failure);
        Err(if again { Failure::Again(error) } else { Failure::Final(error) })
    }

    fn told(&self, spec: &InstanceSpec, failure: CallError) -> BackendError {
        match failure.trouble() {
            Some(Trouble::ImageUnknown) => {
                tracing::warn!("{failure}");
                BackendError::ImageMissing(images::shown(&spec.image))
            }
            _ => failure.into_backend("can't launch the instance"),
        }
    }

    /// While a launch or a start goes on: gives its turn back as soon as Multipass has taken it up, so that others can
    /// be served, and lets the guest use the network once its address is known, so that its first boot has one.
    pub(super) async fn attend(
        &self,
        name: &Name,
        turn: MutexGuard<'_, ()>,
    ) -> std::convert::Infallible {
        let began = Instant::now();
        let mut turn = Some(turn);
        loop {
            sleep(self.pace.poll).await;
            let own = self.own().await.unwrap_or_default();
            let seen = own.iter().find(|own| own.name == *name).map(|own| own.state);
            let is_taken_up = seen.is_some_and(|state| !state.is_down());
            if is_taken_up || began.elapsed() > self.pace.turn {
                turn = None;
            }
            if seen == Some(State::Running)
                && turn.is_none()
                && let Some(address) = self.find_address(name).await
            {
                self.found_at(name.vm(), address).await;
                // Its boot goes on with a network; the rest is for whoever called.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits until a launched instance is up and has the VM's own host key. `launched` says that Multipass has said
    /// that its first boot is over.
    async fn bring_up(
        &self,
        spec: &InstanceSpec,
        name: &Name,
        launched: bool,
    ) -> Result<(), Failure> {
        let vm = spec.id.vm();
        let attempt = Attempt::begun_now(name.to_string());
        if let Err(error) = self.come_up(vm, name).await {
            if !error.is_unavailable() {
                self.give_up(vm, &attempt).await.map_err(Failure::Final)?;
            }
            return Err(Failure::Final(error));
        }
        if let Some(access) = &spec.access {
            self.verify(name, access, launched).await.map_err(Failure::Final)?;
        }
        self.came_up(name).map_err(Failure::Final)
    }

    /// Notes that it holds somebody's data from now on.
    pub(super) fn came_up(&self, name: &Name) -> Result<(), BackendError> {
        let came_up = |book: &mut super::books::Book| {
            if let Some(current) = book.current.as_mut().filter(|one| one.name == name.as_str()) {
                current.came_up = true;
            }
        };
        self.write(name.vm(), came_up).map(drop)
    }

    /// Waits until its first boot has given the instance the VM's own host key: the sign that it is ours, and that
    /// cloud-init has done its work. Right after the boot of a busy host it can't always be asked.
    async fn verify(
        &self,
        name: &Name,
        access: &SshAccess,
        launched: bool,
    ) -> Result<(), BackendError> {
        let began = Instant::now();
        loop {
            match self.host_key(name).await {
                Ok(key) if super::same_key(&key, access.host_key.as_str()) => return Ok(()),
                // The last that its first boot did is written down before Multipass says that it is over.
                Ok(_) if launched => {
                    return Err(BackendError::Failed(format!(
                        "the instance {name} did not take the host key that it was given: its image has no \
                         cloud-init, or the VM's own cloud-init settings replace it"
                    )));
                }
                Ok(_) => {}
                Err(error) if launched && began.elapsed() > self.pace.verify => {
                    tracing::warn!(instance = %name, "its host key could not be looked at: {error}");
                    return Ok(());
                }
                Err(error) => tracing::debug!(instance = %name, "{error}"),
            }
            sleep(self.pace.poll).await;
        }
    }
}

/// The arguments of `multipass launch`. Sizes are in MiB, the one unit that all releases take alike.
fn arguments(
    spec: &InstanceSpec,
    name: &Name,
    image: &str,
    limit: std::time::Duration,
) -> Vec<String> {
    let limits = &spec.limits;
    [
        "launch",
        "--name",
        name.as_str(),
        "-c",
        &super::vcpus(limits).to_string(),
        "-m",
        &format!("{}M", limits.memory_mib),
        "-d",
        &format!("{}M", limits.storage_mib),
        "--cloud-init",
        "-",
        "--timeout",
        &limit.as_secs().max(1).to_string(),
        image,
    ]
    .map(str::to_owned)
    .to_vec()
}
