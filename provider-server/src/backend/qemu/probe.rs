//! What can be done here, found by trying.

use std::collections::BTreeSet;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use golem_vm_machine::accel::{self, Choice, Qemu};
use golem_vm_machine::hardware::Platform;
use golem_vm_machine::network;
use golem_vm_machine::process::{Resource, RunAs};
use golem_vm_protocol::vm::{Ability, Isolation};
use serde::{Deserialize, Serialize};

use super::QemuBackend;
use crate::backend::at_most::AtMost;
use crate::backend::{Accelerator, BackendError, Capabilities, Containment, Finding, kept_file};

/// Oldest QEMU that machines are tried with.
const OLDEST: (u32, u32) = (7, 2);
/// A user that no machine has: of those that machines may have, the last one.
const TRIAL_USER: u32 = 2_099_999_999;

/// The QEMU of this host, and what runs guests' instructions: remembered where nothing has changed.
pub(super) async fn platform(directory: &Path) -> Result<(Platform, Choice), BackendError> {
    let unavailable = |what: String| BackendError::Unavailable(what);
    let qemu = Qemu::find().await.map_err(|error| unavailable(error.to_string()))?;
    if qemu.release() < OLDEST {
        return Err(unavailable(format!(
            "QEMU {} is too old: {}.{} or newer is needed",
            qemu.version, OLDEST.0, OLDEST.1
        )));
    }
    let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(|error| unavailable(format!("{} can't be made: {error}", directory.display())))?;
    let file = directory.join("accelerator.json");
    let kept = kept_file::read::<Choice>(&file).filter(|choice| choice.holds_for(&qemu));
    let choice = match kept {
        Some(choice) => choice,
        None => {
            let chosen = accel::choose(&qemu, directory).await;
            let chosen = chosen
                .map_err(|error| unavailable(format!("trying hardware virtualisation: {error}")))?;
            if let Err(error) = kept_file::write(&file, &chosen) {
                tracing::warn!("{}: {error}; KVM is tried again at the next start", file.display());
            }
            chosen
        }
    };
    Ok((Platform { qemu, accelerator: choice.accelerator }, choice))
}

/// What was found at an earlier start, and with which QEMU.
#[derive(Serialize, Deserialize)]
struct Remembered {
    choice: Choice,
    capabilities: Capabilities,
}

impl QemuBackend {
    /// See [`crate::backend::Backend::recall`].
    pub(super) fn remembered(&self) -> Option<Capabilities> {
        let kept: Remembered = kept_file::read(&self.directory.join("capabilities.json"))?;
        (kept.choice == self.choice).then_some(kept.capabilities)
    }

    /// See [`crate::backend::Backend::probe`].
    pub(super) async fn try_all(&self) -> Result<Capabilities, BackendError> {
        let settings = self.machines.settings();
        let qemu = &settings.platform.qemu;
        let mut findings = vec![
            Finding::good("QEMU", format!("{} with {}", qemu.version, qemu.machine)),
            accelerator(&self.choice),
        ];
        let groups = &settings.groups;
        findings.push(match groups.missing() {
            None => Finding::good("control groups", format!("CPU, memory and threads are bounded by {}", groups.how())),
            Some(why) => Finding::bad(
                "control groups",
                format!("not all limits are enforced by {}: {why}", groups.how()),
                "run the provider as root, or as a user with systemd's user services (loginctl enable-linger USER)",
            ),
        });
        let run_as = if rustix::process::geteuid().is_root() {
            RunAs::User { id: TRIAL_USER, group: None }
        } else {
            RunAs::Myself
        };
        let troubles = network::probe(run_as, &self.directory.join("network-trial")).await;
        let containment = match troubles.first() {
            None => Containment::Contained,
            Some(trouble) => {
                Containment::Uncontained(format!("{}: {}", trouble.what, trouble.remedy))
            }
        };
        if troubles.is_empty() {
            findings.push(Finding::good(
                "containment",
                "each guest is in a network namespace of its own, with its rules in it",
            ));
        }
        for trouble in troubles {
            findings.push(Finding::bad("containment", trouble.what, trouble.remedy));
        }
        let capabilities = Capabilities {
            isolation: Isolation::Vm,
            version: format!("QEMU {}", qemu.version),
            enforced: enforced(groups.enforces(), containment == Containment::Contained),
            containment,
            findings,
            data_root: Some(self.directory.clone()),
            accel: Some(Accelerator {
                kind: self.choice.accelerator.as_str().to_owned(),
                why: self.choice.why.clone(),
            }),
            abilities: abilities(),
        };
        let kept = Remembered { choice: self.choice.clone(), capabilities: capabilities.clone() };
        if let Err(error) = kept_file::write(&self.directory.join("capabilities.json"), &kept) {
            tracing::warn!("what QEMU can do here is tried again at the next start: {error}");
        }
        Ok(capabilities)
    }
}

/// With what guests run, and why.
fn accelerator(choice: &Choice) -> Finding {
    match &choice.remedy {
        None => Finding::good("hardware virtualisation", choice.why.clone()),
        Some(remedy) => Finding::bad(
            "hardware virtualisation",
            format!("VMs are emulated, which is slow: {}", choice.why),
            remedy.clone(),
        ),
    }
}

/// Which limits hold. A machine has no more processors and memory than it was given, whatever the host can enforce;
/// but QEMU itself takes some on top, and a share of a processor is only enforced by a group.
fn enforced(groups: &[Resource], contained: bool) -> Vec<String> {
    let mut enforced = Vec::new();
    if groups.contains(&Resource::Cpu) {
        enforced.push("cpu");
    }
    // Of guests; of QEMU's own memory an address space is the bound where there is no group.
    enforced.push("memory");
    // What runs in a guest are the guest's processes; of the host's it has one.
    enforced.push("processes");
    enforced.push("storage");
    if contained {
        enforced.push("bandwidth");
    }
    enforced.into_iter().map(str::to_owned).collect()
}

fn abilities() -> BTreeSet<Ability> {
    [
        Ability::Suspend,
        Ability::Snapshots,
        Ability::LiveSnapshots,
        Ability::Clone,
        Ability::LiveClone,
        Ability::Resize,
        Ability::LiveDiskResize,
        Ability::Console,
        Ability::CloudInit,
        Ability::Notify,
        Ability::LiveKeys,
    ]
    .into()
}

/// What it can do on a host that has all that is needed, as root or as an ordinary user without control groups.
pub(super) fn at_most(as_root: bool) -> AtMost {
    let groups = [Resource::Cpu, Resource::Memory, Resource::Threads];
    AtMost {
        heading: if as_root { "QEMU, as root" } else { "QEMU, as an ordinary user" },
        isolation: Isolation::Vm,
        accel: "`kvm` where a guest was seen to run with it, else `tcg`",
        containment: "rules in a network namespace of each guest's own",
        enforced: enforced(if as_root { &groups } else { &[] }, true),
        abilities: abilities(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_a_processor_needs_a_group() {
        assert!(enforced(&[Resource::Cpu], true).contains(&"cpu".to_owned()));
        let without = enforced(&[], false);
        assert!(!without.contains(&"cpu".to_owned()) && !without.contains(&"bandwidth".to_owned()));
        assert!(without.contains(&"storage".to_owned()));
    }
}
