//! The VMs, for the provider's owner.

use std::fmt::Write as _;

use golem_vm_protocol::text::printable;
use golem_vm_protocol::time::{Timestamp, in_words};
use golem_vm_protocol::vm::{OnExpiry, VmStatus};

use super::age;
use crate::cli::table::Rows;
use crate::cli::terminal::{Style, Tone};
use crate::control::messages::{OrphanLine, VmLine};

/// How much of an id is shown to a person, in characters.
const SHORT_ID: usize = 12;

pub(super) fn show(out: &mut String, vms: &[VmLine], now: Timestamp, style: Style) {
    if vms.is_empty() {
        out.push_str("No VMs are rented.\n");
        return;
    }
    let headings =
        ["VM", "STATUS", "SIZE", "BACKEND", "IMAGE", "PORT", "OWNER", "AGE", "LEASE", "INSTANCE"];
    let mut rows = Rows::new(&headings, style);
    for vm in vms {
        let size = vm.resources;
        let owner: String = vm.owner.chars().take(SHORT_ID).collect();
        rows.add([
            (printable(&vm.name, 64), None),
            status(vm),
            (format!("{} vCPU, {} GB, {} GB", size.cpu, size.memory, size.storage), None),
            (vm.backend.to_string(), None),
            (printable(&vm.image, 64), None),
            (vm.ssh_port.to_string(), None),
            (owner, None),
            (age(now.since(vm.created_at)), None),
            lease(vm, now),
            (printable(&vm.instance, 64), None),
        ]);
    }
    out.push_str(&rows.render());
    for vm in vms {
        if let Some(message) = &vm.message {
            // What was stopped or is only kept is as it should be.
            let tone = if vm.status == VmStatus::Error { Tone::Bad } else { Tone::Warning };
            let name = printable(&vm.name, 64);
            let _ = writeln!(out, "{} {name}: {}", style.paint(tone, "!"), printable(message, 500));
        }
    }
    let count = |wanted: fn(&VmLine) -> bool| vms.iter().filter(|vm| wanted(vm)).count();
    let (kept, broken) = (count(is_kept), count(|vm| vm.status == VmStatus::Error));
    if kept > 0 {
        let _ = writeln!(
            out,
            "{kept} of {} only kept, which their owners can have back until they are erased.",
            vms.len()
        );
    }
    if broken > 0 {
        let text = format!(
            "{broken} of {} can't be used; 'golem-provider events' shows how it came to that.",
            vms.len()
        );
        let _ = writeln!(out, "{}", style.paint(Tone::Bad, &text));
    }
}

/// Instances that no VM stands for.
pub(super) fn orphans(out: &mut String, orphans: &[OrphanLine], style: Style) {
    if orphans.is_empty() {
        return;
    }
    let heading = "Instances that belong to no VM ('golem-provider doctor' says what to do):";
    out.push_str(&format!("\n{}\n", style.paint(Tone::Warning, heading)));
    for orphan in orphans {
        out.push_str(&format!(
            "  {}, noticed {}, removed in {}\n",
            printable(&orphan.instance, 64),
            orphan.first_seen_at,
            in_words(orphan.removed_in_seconds)
        ));
    }
}

fn is_kept(vm: &VmLine) -> bool {
    vm.lease.ended_at.is_some()
}

fn status(vm: &VmLine) -> (String, Option<Tone>) {
    let tone = match vm.status {
        _ if vm.quarantined_at.is_some() => Tone::Bad,
        _ if is_kept(vm) => Tone::Warning,
        VmStatus::Running => Tone::Good,
        VmStatus::Error => Tone::Bad,
        VmStatus::Stopped => Tone::Faint,
        _ => Tone::Warning,
    };
    let word = if is_kept(vm) { "kept" } else { vm.status.as_str() };
    match vm.quarantined_at {
        Some(_) => (format!("{word}, cut off"), Some(tone)),
        None => (word.to_owned(), Some(tone)),
    }
}

/// When it ends, and what happens then.
fn lease(vm: &VmLine, now: Timestamp) -> (String, Option<Tone>) {
    let left = |moment: Timestamp| in_words(moment.since(now).as_secs());
    match (vm.lease.erased_at, vm.lease.expires_at) {
        (Some(erased), _) => (format!("erased in {}", left(erased)), Some(Tone::Warning)),
        (None, None) => ("no end".to_owned(), Some(Tone::Faint)),
        (None, Some(end)) => {
            let then = match vm.lease.on_expiry {
                OnExpiry::Destroy => "destroyed in",
                OnExpiry::Stop | OnExpiry::Unknown => "ends in",
            };
            let tone = vm.lease.ends_soon.then_some(Tone::Warning);
            (format!("{then} {}", left(end)), tone)
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use golem_vm_protocol::VmResources;
    use golem_vm_protocol::vm::Lease;

    use super::*;
    use crate::backend::BackendKind;

    const PLAIN: Style = Style { terminal: false, colour: false };

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_unix_seconds(1_800_000_000 + seconds)
    }

    fn vm(name: &str, status: VmStatus, message: Option<&str>) -> VmLine {
        VmLine {
            id: "vm_1".to_owned(),
            owner: "o".repeat(52),
            name: name.to_owned(),
            status,
            message: message.map(str::to_owned),
            quarantined_at: None,
            lease: Lease {
                expires_at: Some(at(7200)),
                on_expiry: OnExpiry::Stop,
                grace_seconds: 86_400,
                ends_soon: false,
                ended_at: None,
                erased_at: None,
                stop_when_idle_seconds: None,
            },
            ssh_port: 50_800,
            resources: VmResources { cpu: 1, memory: 2, storage: 10 },
            image: "debian-12".to_owned(),
            backend: BackendKind::Docker,
            instance: "golem-vm_1".to_owned(),
            created_at: at(0),
        }
    }

    pub(in crate::cli::status) fn lines() -> Vec<VmLine> {
        let kept = vm("old", VmStatus::Stopped, Some("its lease has ended"));
        let thrown = vm("scratch", VmStatus::Running, None);
        let endless = vm("free", VmStatus::Running, None);
        vec![
            vm("web", VmStatus::Error, Some("it is gone\u{1b}")),
            VmLine {
                lease: Lease {
                    ended_at: Some(at(0)),
                    erased_at: Some(at(0).plus(Duration::from_secs(86_400))),
                    ..kept.lease.clone()
                },
                ..kept
            },
            VmLine {
                lease: Lease { on_expiry: OnExpiry::Destroy, ..thrown.lease.clone() },
                ..thrown
            },
            VmLine { lease: Lease { expires_at: None, ..endless.lease.clone() }, ..endless },
        ]
    }

    #[test]
    fn leases_and_problems_are_told() {
        let mut shown = String::new();
        show(&mut shown, &lines(), at(3600), PLAIN);
        for part in [
            "web      error    1 vCPU, 2 GB, 10 GB",
            "ends in 1 h",
            "old      kept ",
            "erased in 23 h",
            "destroyed in 1 h",
            "no end",
            "! web: it is gone\u{fffd}\n",
            "! old: its lease has ended\n",
            "1 of 4 only kept",
            "1 of 4 can't be used",
        ] {
            assert!(shown.contains(part), "{part:?} is not in\n{shown}");
        }
    }
}
