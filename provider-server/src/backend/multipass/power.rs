//! Up and down.

use std::time::{Duration, Instant};

use golem_vm_protocol::VmId;
use tokio::time::sleep;

use super::Multipass;
use super::asking::{Now, Own};
use super::names::Name;
use super::program::CallError;
use super::reading::State;
use super::said::Trouble;
use crate::backend::{BackendError, InstanceId};

impl Multipass {
    /// See [`crate::backend::Backend::start`]. What was suspended goes on where it was.
    pub(super) async fn start(&self, id: InstanceId) -> Result<(), BackendError> {
        let vm = id.vm();
        let Now::There(own, _) = self.now(vm).await? else {
            return Err(BackendError::NoInstance(id));
        };
        let name = own.name.clone();
        match own.state {
            State::Deleted => {
                return Err(BackendError::Failed(format!(
                    "somebody has put the instance into Multipass's trash: 'multipass recover {name}' brings it back"
                )));
            }
            State::DelayedShutdown => {
                let cancelled =
                    self.change(&["stop", "--cancel", name.as_str()], self.pace.change).await;
                if let Err(error) = cancelled {
                    tracing::debug!(instance = %name, "{error}");
                }
            }
            State::Stopped => {
                self.set_limits(&name).await?;
                self.switch_on(vm, &name).await?;
            }
            State::Suspended => self.switch_on(vm, &name).await?,
            State::Suspending => {
                self.wait_for(&name, self.pace.change, |state| state == State::Suspended).await?;
                self.switch_on(vm, &name).await?;
            }
            // Nobody is starting it any more.
            State::Unknown if self.books.of(vm).up_for() > self.pace.unknown => {
                self.switch_off(&name).await?;
                self.switch_on(vm, &name).await?;
            }
            State::Running | State::Starting | State::Restarting | State::Unknown => {}
        }
        self.come_up(vm, &name).await?;
        if let Err(error) = self.take_identity(&name).await {
            // It must not be used as the machine that it was cloned from.
            self.switch_off(&name).await?;
            return Err(error);
        }
        if let Err(error) = self.put_pending(id, &name, self.pace.verify).await {
            // A guest that has spoilt its own files still starts; this is tried again.
            tracing::warn!(instance = %name, "{error}");
        }
        Ok(())
    }

    /// Has Multipass start it, and looks what came of it.
    async fn switch_on(&self, vm: VmId, name: &Name) -> Result<(), BackendError> {
        self.write(vm, super::books::Book::has_just_started)?;
        let limit = self.pace.launch.as_secs().max(1).to_string();
        let arguments = ["start", "--timeout", &limit, name.as_str()];
        let turn = self.changes.lock().await;
        let call = self.program.call(&arguments, b"", self.pace.launch * 2);
        let said = tokio::select! {
            said = call => said,
            never = self.attend(name, turn) => match never {},
        };
        let Err(failure) = said else { return Ok(()) };
        // Whatever it says: what is there decides.
        let own = self.own_patiently().await;
        let own =
            own.map_err(|error| error.into_backend("can't ask Multipass for its instances"))?;
        let seen = own.into_iter().find(|own| own.name == *name).map(|own| own.state);
        match seen {
            Some(state) if !state.is_down() => Ok(()),
            Some(_) => Err(failure.into_backend(&format!("can't start {name}"))),
            None => Err(BackendError::NoInstance(InstanceId::of(vm))),
        }
    }

    /// Waits until an instance that was started runs and its address is known. One that stays in a state that
    /// Multipass does not know is switched off and on, once.
    pub(super) async fn come_up(&self, vm: VmId, name: &Name) -> Result<(), BackendError> {
        let mut unknown_since = None;
        let mut was_forced = false;
        let mut was_resumed = false;
        loop {
            let own = self.own_patiently().await;
            let own =
                own.map_err(|error| error.into_backend("can't ask Multipass for its instances"))?;
            let Some(Own { state, .. }) = own.into_iter().find(|own| own.name == *name) else {
                return Err(BackendError::Failed(format!(
                    "the instance {name} disappeared while it came up"
                )));
            };
            match state {
                State::Running => {
                    if let Some(address) = self.find_address(name).await {
                        self.found_at(vm, address).await;
                        return Ok(());
                    }
                }
                State::Stopped | State::Deleted => {
                    return Err(BackendError::Failed(format!(
                        "the instance {name} ended while it came up"
                    )));
                }
                // The daemon was stopped meanwhile, which suspends what runs.
                State::Suspended if !was_resumed => {
                    was_resumed = true;
                    Box::pin(self.switch_on(vm, name)).await?;
                }
                State::Unknown => {
                    let since = *unknown_since.get_or_insert_with(Instant::now);
                    if since.elapsed() > self.pace.unknown {
                        if was_forced {
                            return Err(BackendError::Failed(format!(
                                "Multipass does not reach the instance {name}, also after it was switched off and on"
                            )));
                        }
                        (was_forced, unknown_since) = (true, None);
                        self.switch_off(name).await?;
                        Box::pin(self.switch_on(vm, name)).await?;
                    }
                }
                _ => {}
            }
            sleep(self.pace.poll).await;
        }
    }

    /// See [`crate::backend::Backend::stop`].
    ///
    /// The guest is asked from inside, because Multipass's own way of asking stops the whole daemon for as long as the
    /// guest takes, up to five minutes: for one guest that does not listen, nobody would be served.
    pub(super) async fn stop(&self, id: InstanceId, grace: Duration) -> Result<(), BackendError> {
        let vm = id.vm();
        let Now::There(own, _) = self.now(vm).await? else {
            return Err(BackendError::NoInstance(id));
        };
        let name = own.name;
        if own.state.is_down() {
            return Ok(());
        }
        // Its address may be another one when it runs again.
        self.write(vm, |book| book.address = None)?;
        if own.state == State::Running && !grace.is_zero() {
            match self.ask_to_end(&name).await {
                Ok(()) => {
                    if self.wait_for(&name, grace, State::is_down).await.is_ok() {
                        return Ok(());
                    }
                }
                Err(error) => tracing::info!(instance = %name, "it can't be asked to end: {error}"),
            }
        }
        self.switch_off(&name).await
    }

    /// Switches it off, and verifies that it is. Before 1.14 Multipass can only ask, and says that all is well when
    /// nobody listens.
    pub(super) async fn switch_off(&self, name: &Name) -> Result<(), BackendError> {
        let what = format!("can't stop {name}");
        let version = self.version().await.map_err(|error| error.into_backend(&what))?;
        let said = if version.can_force() {
            self.change(&["stop", "--force", name.as_str()], self.pace.change).await
        } else {
            self.change(&["stop", name.as_str()], self.pace.change).await
        };
        let is_absent = said.as_ref().is_err_and(|error| error.trouble() == Some(Trouble::Absent));
        if is_absent {
            return Err(BackendError::NoInstance(InstanceId::of(name.vm())));
        }
        let ended = self.wait_for(name, self.pace.poll * 5, State::is_down).await;
        match (ended, said) {
            (Ok(()), _) => Ok(()),
            (Err(_), Err(error)) => Err(error.into_backend(&what)),
            (Err(_), Ok(())) if !version.can_force() => Err(BackendError::Failed(format!(
                "{what}: the guest does not end, and Multipass {version} can't switch it off (1.14 can)"
            ))),
            (Err(error), Ok(())) => Err(error),
        }
    }

    /// Waits until it is in such a state.
    pub(super) async fn wait_for(
        &self,
        name: &Name,
        limit: Duration,
        is_it: impl Fn(State) -> bool,
    ) -> Result<(), BackendError> {
        let began = Instant::now();
        loop {
            let own = self.own().await;
            if let Ok(own) = &own {
                match own.iter().find(|own| own.name == *name) {
                    Some(own) if is_it(own.state) => return Ok(()),
                    Some(_) => {}
                    None => return Err(BackendError::NoInstance(InstanceId::of(name.vm()))),
                }
            }
            if began.elapsed() > limit {
                return Err(match own {
                    Err(error) => error.into_backend(&format!("can't see what {name} is at")),
                    Ok(_) => BackendError::Failed(format!(
                        "{name} did not do what it was told within {} s",
                        limit.as_secs()
                    )),
                });
            }
            sleep(self.pace.poll).await;
        }
    }

    /// One call that changes something, when it is its turn: a daemon that is at one may answer nobody else.
    pub(super) async fn change(
        &self,
        arguments: &[&str],
        deadline: Duration,
    ) -> Result<(), CallError> {
        let _turn = self.changes.lock().await;
        self.program.call(arguments, b"", deadline).await.map(drop)
    }
}
