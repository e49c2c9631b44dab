//! Several backends, and what `auto` makes of them.

use golem_vm_protocol::vm::Isolation;

use super::{engine, image, well};
use crate::backend::{Accelerator, BackendChoice, BackendKind, Capabilities, Containment};
use crate::control::messages::{Check, Verdict};
use crate::doctor::{BackendFacts, Facts, examine, verdict};

/// A backend that can do what is needed.
pub(super) fn can(isolation: Isolation, version: &str) -> Capabilities {
    Capabilities {
        isolation,
        version: version.to_owned(),
        enforced: ["cpu", "memory", "processes"].map(str::to_owned).to_vec(),
        containment: Containment::Contained,
        findings: Vec::new(),
        data_root: None,
        accel: None,
        abilities: [].into(),
    }
}

fn emulated() -> Capabilities {
    let why = "a guest hung with KVM".to_owned();
    let accel = Some(Accelerator { kind: "tcg".to_owned(), why });
    Capabilities { accel, ..can(Isolation::Vm, "QEMU 7.2") }
}

fn with(facts: &mut Facts, kind: BackendKind, found: Result<Capabilities, &str>, in_use: bool) {
    let found = found.map_err(str::to_owned);
    facts.backends.push(BackendFacts { kind, found, in_use });
}

fn check<'c>(checks: &'c [Check], subject: &str, part: &str) -> &'c Check {
    let fits = |check: &&Check| check.subject == subject && check.found.contains(part);
    checks.iter().find(fits).unwrap_or_else(|| panic!("no {subject} with {part} in {checks:?}"))
}

#[test]
fn one_of_several_that_is_away_is_a_drawback_and_all_are_shown_by_name() {
    let mut facts = well();
    facts.choice = BackendChoice::Named(vec![BackendKind::Docker, BackendKind::Qemu]);
    with(&mut facts, BackendKind::Qemu, Err("there is no qemu-system-x86_64"), false);
    let checks = examine(&facts);
    let away = check(&checks, "qemu", "no qemu-system");
    assert_eq!(away.verdict, Verdict::Warning);
    assert!(away.remedy.as_ref().is_some_and(|remedy| remedy.contains("slirp4netns")));
    assert_eq!(check(&checks, "docker: limits", "cpu, memory").verdict, Verdict::Good);
    assert_eq!(verdict(&checks), Verdict::Warning);

    facts.backends[1].found = Ok(emulated());
    let bare = examine(&facts);
    assert_eq!(check(&bare, "images", "qemu has no image").verdict, Verdict::Warning);
    let mut of_qemu = image("debian-12", true, true);
    of_qemu.row.backend = BackendKind::Qemu;
    facts.images.as_mut().unwrap().push(of_qemu);
    let checks = examine(&facts);
    check(&checks, "images", "debian-12 (docker), debian-12 (qemu)");
    let slow = check(&checks, "qemu: hardware virtualisation", "a guest hung with KVM");
    assert_eq!(slow.verdict, Verdict::Warning);
}

#[test]
fn auto_says_why_it_took_which() {
    let mut facts = well();
    facts.choice = BackendChoice::Auto;
    facts.backends[0].in_use = false;
    with(&mut facts, BackendKind::Qemu, Ok(emulated()), false);
    with(&mut facts, BackendKind::Multipass, Err("'multipass' is not installed"), false);
    let checks = examine(&facts);
    check(&checks, "auto", "docker is taken");
    check(&checks, "auto", "multipass is not taken: 'multipass' is not installed");
    check(&checks, "auto", "qemu is not taken: it has no hardware acceleration");
    check(&checks, "engine", "Docker Engine 20.10");
    assert!(!checks.iter().any(|check| check.subject.starts_with("qemu")), "{checks:?}");
    assert_eq!(verdict(&checks), Verdict::Good);

    // With guests that the engine can't contain, the slow one is taken.
    engine(&mut facts).containment = Containment::Uncontained("no nft".to_owned());
    let checks = examine(&facts);
    check(&checks, "auto", "qemu is taken");
    check(&checks, "auto", "docker is not taken: it can't contain guests here: no nft");

    for one in &mut facts.backends {
        one.found = Err("away".to_owned());
    }
    assert_eq!(verdict(&examine(&facts)), Verdict::Bad);
}
