//! What makes the VMs, for the provider's owner.

use golem_vm_protocol::text::printable;

use super::line;
use crate::backend::Containment;
use crate::cli::terminal::{Style, Tone};
use crate::control::messages::{BackendCan, BackendStatus};

/// The word for an accelerator that is none.
const EMULATED: &str = "tcg";

pub(super) fn show(out: &mut String, backend: &BackendStatus, style: Style) {
    let name = backend.backend.as_str();
    if let Some(reason) = &backend.away {
        let with = match backend.vms {
            0 => String::new(),
            1 => ", and with it one VM".to_owned(),
            vms => format!(", and with it {vms} VMs"),
        };
        let text = format!("away{with}: {}", printable(reason, 300));
        line(out, name, &style.paint(Tone::Bad, &text));
    }
    let Some(can) = &backend.can else { return };
    line(out, name, &printable(&can.version, 200));
    if let Some(trouble) = &can.trouble {
        line(out, "", &style.paint(Tone::Bad, &printable(trouble, 1000)));
    }
    line(out, "isolation", &isolation(can, style));
    line(out, "containment", &containment(can, style));
}

fn isolation(can: &BackendCan, style: Style) -> String {
    let enforced = if can.enforced.is_empty() {
        style.paint(Tone::Warning, "nothing is enforced")
    } else {
        format!("enforced: {}", can.enforced.join(", "))
    };
    let accel = match &can.accel {
        None => String::new(),
        Some(accel) if accel.kind == EMULATED => {
            let text = format!("emulated (slow): {}", printable(&accel.why, 300));
            format!(", {}", style.paint(Tone::Warning, &text))
        }
        Some(accel) => format!(", {}", printable(&accel.kind, 32)),
    };
    format!("{}{accel}; {enforced}", can.isolation)
}

fn containment(can: &BackendCan, style: Style) -> String {
    match (&can.containment, can.serves_strangers) {
        (Containment::Contained, _) => style.paint(Tone::Good, "guests are contained"),
        (Containment::Uncontained(reason), true) => style.paint(
            Tone::Warning,
            &format!(
                "guests are not contained, and strangers are served: {}",
                printable(reason, 300)
            ),
        ),
        (Containment::Uncontained(reason), false) => style.paint(
            Tone::Warning,
            &format!("only trusted requestors are served: {}", printable(reason, 300)),
        ),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use golem_vm_protocol::vm::Isolation;

    use super::*;
    use crate::backend::{Accelerator, BackendKind};

    pub(in crate::cli::status) fn each() -> Vec<BackendStatus> {
        let docker = BackendCan {
            version: "Docker Engine 20.10 (API 1.41)".to_owned(),
            isolation: Isolation::Container,
            accel: None,
            enforced: vec!["cpu".to_owned(), "memory".to_owned()],
            abilities: [].into(),
            containment: Containment::Uncontained("no firewall".to_owned()),
            serves_strangers: false,
            trouble: None,
        };
        let emulated = BackendCan {
            version: "QEMU 7.2".to_owned(),
            isolation: Isolation::Vm,
            accel: Some(Accelerator { kind: "tcg".to_owned(), why: "KVM hangs".to_owned() }),
            enforced: Vec::new(),
            containment: Containment::Contained,
            serves_strangers: true,
            ..docker.clone()
        };
        let there = |backend, can| BackendStatus { backend, vms: 1, away: None, can: Some(can) };
        let away = Some("no /usr/bin/qemu".to_owned());
        vec![
            there(BackendKind::Docker, docker),
            BackendStatus { backend: BackendKind::Qemu, vms: 2, away, can: None },
            there(BackendKind::Qemu, emulated),
        ]
    }
}
