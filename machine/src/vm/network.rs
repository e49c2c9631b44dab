//! A machine's network: raised before it runs, its rules kept up while it does.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::machines::Held;
use super::manifest::{Manifest, Run};
use super::{MachineError, MachineName, Machines};
use crate::hardware::{GUEST_DIRECTORY, Nic};
use crate::network::ruleset::GUEST_SIDE;
use crate::network::{
    Access, Folder, Inside, NetworkError, Ruleset, host, lower, raise, reconnect, replace_rules,
};
use crate::process::{ProcessIdentity, RunAs};

/// The directory of the uplink's socket, in the machine's own.
const UPLINK: &str = "uplink";
/// After how long an uplink that could not be raised again is tried once more.
const AGAIN: Duration = Duration::from_secs(30);

/// Which machines' uplinks could not be raised again, and when that was tried last.
#[derive(Debug, Default)]
pub(super) struct Mending(Mutex<HashMap<MachineName, Instant>>);

impl Mending {
    fn tried(&self) -> MutexGuard<'_, HashMap<MachineName, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether to try it now.
    fn may(&self, name: &MachineName) -> bool {
        self.tried().get(name).is_none_or(|last| last.elapsed() >= AGAIN)
    }

    fn failed(&self, name: &MachineName) {
        self.tried().insert(name.clone(), Instant::now());
    }

    fn done(&self, name: &MachineName) {
        self.tried().remove(name);
    }
}

impl Machines {
    /// Cuts exactly these machines off from all network, those that run and those that will. Called again, it
    /// changes nothing.
    ///
    /// # Errors
    /// When the rules of one that runs are not as they have to be.
    pub async fn cut_off(&self, names: BTreeSet<MachineName>) -> Result<(), MachineError> {
        *self.settings.cut_off() = names;
        self.renew_rules().await
    }

    /// Cuts a machine off from all network, or lets it back.
    ///
    /// # Errors
    /// When it runs and its rules are still the earlier ones.
    pub async fn set_cut_off(&self, name: &MachineName, off: bool) -> Result<(), MachineError> {
        let changed = {
            let mut all = self.settings.cut_off();
            if off { all.insert(name.clone()) } else { all.remove(name) }
        };
        let renewed = self.renew(name).await;
        if renewed.is_err() && changed {
            let mut all = self.settings.cut_off();
            if off {
                all.remove(name)
            } else {
                all.insert(name.clone())
            };
        }
        renewed
    }

    /// Makes the rules of all machines that run what they have to be now: the host may be in another network.
    ///
    /// # Errors
    /// When some are still the earlier ones; the others are new then.
    pub async fn renew_rules(&self) -> Result<(), MachineError> {
        let mut failed = Ok(());
        for name in self.list()? {
            if let Err(error) = self.renew(&name).await {
                failed = Err(MachineError::Unknown(format!("the rules of {name}: {error}")));
            }
        }
        failed
    }

    async fn renew(&self, name: &MachineName) -> Result<(), MachineError> {
        let held = self.hold(name).await;
        let Some(manifest) = held.load()? else { return Ok(()) };
        let (Some(run), Some(_)) = (&manifest.run, &manifest.network) else { return Ok(()) };
        match held.put_rules(&manifest, run).await {
            // It has ended, and what was in its namespace with it.
            Err(MachineError::Unknown(_) | MachineError::Failed(_))
                if !run.process.alive().unwrap_or(true) =>
            {
                Ok(())
            }
            other => other,
        }
    }
}

impl Held<'_> {
    /// The machine's network card; none in trials.
    pub(super) fn nic(manifest: &Manifest) -> Option<Nic> {
        let network = manifest.network.as_ref()?;
        Some(Nic { tap: GUEST_SIDE.to_owned(), mac: network.addressing.mac.to_string() })
    }

    /// Gives the machine whose process waits its network.
    pub(super) async fn raise(
        &self,
        manifest: &mut Manifest,
        run: &mut Run,
    ) -> Result<(), MachineError> {
        self.connect(manifest, run, Namespace::Empty).await
    }

    /// Raises the uplink of a machine that runs again if its process has ended: without it nobody reaches the guest,
    /// and the guest nobody. What can't be raised now is raised by a later look; the machine goes on meanwhile.
    pub(super) async fn mend(&self, manifest: &mut Manifest) {
        let Some(run) = manifest.run.clone().filter(lacks_uplink) else { return };
        if manifest.network.is_none() || !self.settings.mending.may(&self.name) {
            return;
        }
        match self.try_mend(manifest, run.clone()).await {
            Ok(ssh) => {
                self.settings.mending.done(&self.name);
                tracing::warn!(machine = %self.name, %ssh, "its slirp4netns had ended: it has another one, and what went through the old one is cut");
            }
            // It has ended, too.
            Err(_) if !run.process.alive().unwrap_or(true) => {}
            Err(error) => {
                tracing::error!(machine = %self.name, "its slirp4netns has ended, and there can't be another one: {error}; this is tried again");
                self.settings.mending.failed(&self.name);
                // Where it was reached before is where it will be again, most likely.
                if let Some(now) = &mut manifest.run {
                    now.ssh = run.ssh;
                }
                if let Err(error) = self.save(manifest) {
                    tracing::error!(machine = %self.name, "{error}");
                }
            }
        }
    }

    async fn try_mend(
        &self,
        manifest: &mut Manifest,
        mut run: Run,
    ) -> Result<SocketAddr, MachineError> {
        // One that was being raised when this program was killed lives, and leads nowhere.
        self.lower(&run).await?;
        run.ssh = None;
        self.connect(manifest, &mut run, Namespace::SetUp).await?;
        manifest.run = Some(run.clone());
        self.save(manifest)?;
        run.ssh.ok_or_else(|| MachineError::Failed("it has no network".to_owned()))
    }

    async fn connect(
        &self,
        manifest: &mut Manifest,
        run: &mut Run,
        found: Namespace,
    ) -> Result<(), MachineError> {
        let Some(network) = manifest.network.clone() else { return Ok(()) };
        let on_link = host::networks().await.map_err(MachineError::Failed)?;
        let ruleset = Ruleset {
            addressing: &network.addressing,
            rules: &self.settings.rules,
            on_link: &on_link,
            access: self.access(network.access),
        };
        let outside = self.guest_directory().join(UPLINK);
        let inside = Path::new(GUEST_DIRECTORY).join(UPLINK);
        let folder = Folder { outside: &outside, inside: &inside };
        let process = run.process.clone();
        let within = Inside { process: &process, run_as: run_as(manifest) };
        let note = |uplink: &ProcessIdentity| {
            run.uplink = Some(uplink.clone());
            manifest.run = Some(run.clone());
            self.save(manifest).map_err(io::Error::other)?;
            // What it uses for the guest counts as the guest's. Where systemd keeps the groups, a user may not
            // always do so.
            if let Some(Err(error)) = run.group.as_ref().map(|group| group.admit(uplink)) {
                tracing::debug!(machine = %self.name, "its uplink is not in its group: {error}");
            }
            Ok(())
        };
        let uplink = match found {
            Namespace::Empty => raise(within, &ruleset, folder, note).await,
            Namespace::SetUp => reconnect(within, &ruleset, folder, note).await,
        };
        let uplink = uplink.map_err(failed)?;
        run.ssh = Some(uplink.ssh);
        Ok(())
    }

    /// Puts the rules in place that a machine that runs has to have now.
    async fn put_rules(&self, manifest: &Manifest, run: &Run) -> Result<(), MachineError> {
        let Some(network) = &manifest.network else { return Ok(()) };
        let on_link = host::networks().await.map_err(MachineError::Unknown)?;
        let ruleset = Ruleset {
            addressing: &network.addressing,
            rules: &self.settings.rules,
            on_link: &on_link,
            access: self.access(network.access),
        };
        let within = Inside { process: &run.process, run_as: run_as(manifest) };
        replace_rules(within, &ruleset).await.map_err(failed)
    }

    /// Ends the uplink.
    pub(super) async fn lower(&self, run: &Run) -> Result<(), MachineError> {
        let Some(uplink) = &run.uplink else { return Ok(()) };
        lower(uplink, &self.guest_directory().join(UPLINK)).await.map_err(failed)
    }

    fn access(&self, meant: Access) -> Access {
        if self.settings.cut_off().contains(&self.name) { Access::None } else { meant }
    }
}

/// How much of a machine's network is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Namespace {
    /// Nothing: its process waits.
    Empty,
    /// All but the uplink.
    SetUp,
}

/// Whether a machine that was told to go on has no uplink any more, or one that nobody finished raising.
fn lacks_uplink(run: &Run) -> bool {
    let Some(uplink) = run.uplink.as_ref().filter(|_| run.begun) else { return false };
    // What can't be told now is told by a later look.
    run.ssh.is_none() || !uplink.alive().unwrap_or(true)
}

/// As whom the machine runs.
pub(super) fn run_as(manifest: &Manifest) -> RunAs {
    manifest.user.map_or(RunAs::Myself, |id| RunAs::User { id, group: super::start::kvm_group() })
}

fn failed(error: NetworkError) -> MachineError {
    MachineError::Failed(error.to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::manifest::tests::manifest;
    use super::*;

    #[test]
    fn an_uplink_that_has_ended_or_was_never_finished_is_missed() {
        let myself = ProcessIdentity::of(std::process::id()).unwrap();
        let gone = ProcessIdentity { start: myself.start + 1, ..myself.clone() };
        let ssh = Some("127.0.0.1:2222".parse().unwrap());
        let plain = Run { ssh, ..manifest().run.unwrap() };
        let with = |uplink: &ProcessIdentity| Run { uplink: Some(uplink.clone()), ..plain.clone() };
        assert!(!lacks_uplink(&with(&myself)));
        assert!(lacks_uplink(&with(&gone)));
        assert!(lacks_uplink(&Run { ssh: None, ..with(&myself) }));
        // A trial has none, and one that was not told to go on ends by itself.
        assert!(!lacks_uplink(&plain));
        assert!(!lacks_uplink(&Run { begun: false, ..with(&gone) }));
    }
}
