//! A machine's network: raised before it runs, its rules kept up while it does.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use super::machines::Held;
use super::manifest::{Manifest, Run};
use super::{MachineError, MachineName, Machines};
use crate::hardware::{GUEST_DIRECTORY, Nic};
use crate::network::ruleset::GUEST_SIDE;
use crate::network::{
    Access, Folder, Inside, NetworkError, Ruleset, host, lower, raise, replace_rules,
};
use crate::process::{ProcessIdentity, RunAs};

/// The directory of the uplink's socket, in the machine's own.
const UPLINK: &str = "uplink";

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
        let uplink = raise(within, &ruleset, folder, note).await.map_err(failed)?;
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

/// As whom the machine runs.
pub(super) fn run_as(manifest: &Manifest) -> RunAs {
    manifest.user.map_or(RunAs::Myself, |id| RunAs::User { id, group: super::start::kvm_group() })
}

fn failed(error: NetworkError) -> MachineError {
    MachineError::Failed(error.to_string())
}
