//! Which backends a provider uses: what its owner set, and what `auto` makes of it.

use std::str::FromStr;

use super::{BackendKind, Capabilities, Containment};

/// What the owner set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum BackendChoice {
    /// The first that passes its probe and can contain guests; see [`place`].
    #[default]
    Auto,
    /// These, each once; the first is what a requestor gets who asks for nothing else.
    Named(Vec<BackendKind>),
}

impl FromStr for BackendChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.trim() == "auto" {
            return Ok(Self::Auto);
        }
        let mut named = Vec::new();
        for word in text.split(',').map(str::trim) {
            if word == "auto" {
                return Err("auto stands alone: it chooses among all of them".to_owned());
            }
            let kind = word.parse()?;
            if named.contains(&kind) {
                return Err(format!("{kind} is named twice"));
            }
            named.push(kind);
        }
        Ok(Self::Named(named))
    }
}

/// What `auto` chooses among.
pub const AUTO: [BackendKind; 3] = [BackendKind::Qemu, BackendKind::Multipass, BackendKind::Docker];

/// Where a backend comes among those that `auto` chooses from, the lowest first: QEMU with hardware
/// acceleration that was tried, Multipass, Docker, QEMU without it (last because it is slow, not because it
/// is weak). Of one that could not be asked the best is assumed.
#[must_use]
pub fn place(kind: BackendKind, capabilities: Option<&Capabilities>) -> u8 {
    match kind {
        BackendKind::Qemu if capabilities.is_some_and(Capabilities::is_emulated) => 3,
        BackendKind::Qemu => 0,
        BackendKind::Multipass => 1,
        BackendKind::Docker => 2,
        BackendKind::Memory => 4,
    }
}

/// Which of these `auto` takes: the first in its order that contains guests, or the first at all where none
/// does. `None` when none of them could be asked.
#[must_use]
pub fn take(asked: &[(BackendKind, Result<Capabilities, String>)]) -> Option<BackendKind> {
    let first = |fit: fn(&Capabilities) -> bool| {
        let fitting = asked.iter().filter_map(|(kind, found)| Some((*kind, found.as_ref().ok()?)));
        let fitting = fitting.filter(|(_, found)| fit(found));
        fitting.min_by_key(|(kind, found)| place(*kind, Some(found))).map(|(kind, _)| kind)
    };
    first(|found| found.containment == Containment::Contained).or_else(|| first(|_| true))
}

/// Whether nothing that is not among `asked` could come before what [`take`] takes of them.
#[must_use]
pub fn is_decided(asked: &[(BackendKind, Result<Capabilities, String>)]) -> bool {
    let of = |kind| {
        asked.iter().find(|(one, _)| *one == kind).and_then(|(_, found)| found.as_ref().ok())
    };
    let Some(taken) = take(asked) else { return false };
    let found = of(taken);
    found.is_some_and(|found| found.containment == Containment::Contained)
        && AUTO
            .into_iter()
            .filter(|kind| !asked.iter().any(|(one, _)| one == kind))
            .all(|kind| place(kind, None) > place(taken, found))
}

/// Why `auto` took each of these or did not, in sentences for its owner.
#[must_use]
pub fn reasons(
    asked: &[(BackendKind, Result<Capabilities, String>)],
) -> Vec<(BackendKind, bool, String)> {
    let taken = take(asked);
    let mut sorted: Vec<_> = asked.iter().collect();
    sorted.sort_by_key(|(kind, found)| place(*kind, found.as_ref().ok()));
    let why = |(kind, found): &(BackendKind, Result<Capabilities, String>)| {
        let is_taken = taken == Some(*kind);
        let why = match found {
            Err(reason) => reason.clone(),
            Ok(found) => {
                let emulated = if found.is_emulated() {
                    "it has no hardware acceleration here, so its VMs are slow; "
                } else {
                    ""
                };
                match (&found.containment, is_taken) {
                    (Containment::Contained, true) => {
                        format!("{emulated}it contains guests, and nothing better does")
                    }
                    (Containment::Contained, false) => {
                        format!("{emulated}it would do, and comes after the one that is taken")
                    }
                    (Containment::Uncontained(reason), true) => {
                        format!("{emulated}no backend can contain guests here: {reason}")
                    }
                    (Containment::Uncontained(reason), false) => {
                        format!("{emulated}it can't contain guests here: {reason}")
                    }
                }
            }
        };
        (*kind, is_taken, why)
    };
    sorted.into_iter().map(why).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::Accelerator;
    use super::super::memory::MemoryBackend;
    use super::*;

    #[test]
    fn a_list_is_read_in_its_order() {
        let read = |text: &str| text.parse::<BackendChoice>();
        assert_eq!(read(" auto ").unwrap(), BackendChoice::Auto);
        let both = BackendChoice::Named(vec![BackendKind::Qemu, BackendKind::Docker]);
        assert_eq!(read("qemu, docker").unwrap(), both);
        for wrong in ["", "docker,", "docker,docker", "docker,auto", "vmware", "Docker"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    type Asked = (BackendKind, Result<Capabilities, String>);

    fn can(kind: BackendKind, accel: Option<&str>, contained: bool) -> Asked {
        let mut found = MemoryBackend::new().capabilities();
        found.accel =
            accel.map(|kind| Accelerator { kind: kind.to_owned(), why: "tried".to_owned() });
        if !contained {
            found.containment = Containment::Uncontained("no nft".to_owned());
        }
        (kind, Ok(found))
    }

    #[test]
    fn auto_takes_the_first_that_contains_guests_in_its_order() {
        use BackendKind::{Docker, Multipass, Qemu};
        let kvm = || can(Qemu, Some("kvm"), true);
        let tcg = || can(Qemu, Some("tcg"), true);
        let (multipass, docker) = (|| can(Multipass, None, true), || can(Docker, None, true));
        assert_eq!(take(&[docker(), kvm(), multipass()]), Some(Qemu));
        assert_eq!(take(&[docker(), tcg(), multipass()]), Some(Multipass));
        assert_eq!(take(&[tcg(), docker(), (Multipass, Err("absent".into()))]), Some(Docker));
        assert_eq!(take(&[tcg(), can(Docker, None, false)]), Some(Qemu));
        assert_eq!(take(&[can(Qemu, Some("tcg"), false), can(Docker, None, false)]), Some(Docker));
        assert_eq!(take(&[(Docker, Err("down".into()))]), None);
        assert!(is_decided(&[kvm()]) && !is_decided(&[tcg()]) && is_decided(&[tcg(), multipass()]));
        assert!(!is_decided(&[can(Qemu, Some("kvm"), false)]));
    }

    #[test]
    fn each_is_told_why() {
        use BackendKind::{Docker, Multipass, Qemu};
        let asked = [
            can(Qemu, Some("tcg"), true),
            (Multipass, Err("'multipass' is not installed".to_owned())),
            can(Docker, None, true),
        ];
        let told = reasons(&asked);
        let order: Vec<_> = told.iter().map(|(kind, taken, _)| (*kind, *taken)).collect();
        assert_eq!(order, [(Multipass, false), (Docker, true), (Qemu, false)]);
        assert!(told[0].2.contains("not installed") && told[2].2.contains("slow"));
    }
}
