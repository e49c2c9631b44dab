//! Leases: asked for, shown, made longer, ended, and had back.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::time::Duration;

use golem_vm_protocol::time::Timestamp;
use golem_vm_protocol::vm::{LeaseTerms, OnExpiry};
use serde_json::{Value, json};
use support::discovery::Discovery;
use support::provider::{Provider, now};
use support::sshd::Sshd;
use support::{Home, Ran};

struct Market {
    sshd: Sshd,
    discovery: Discovery,
    provider: Provider,
    home: Home,
}

fn terms(max_seconds: Option<u64>) -> LeaseTerms {
    LeaseTerms { default_seconds: 7 * 86_400, max_seconds, grace_seconds: 86_400 }
}

impl Market {
    fn new() -> Self {
        let sshd = Sshd::start();
        let discovery = Discovery::new();
        let provider = Provider::with_sshd(1, &sshd);
        discovery.list(&provider);
        let home = Home::with(&discovery);
        Self { sshd, discovery, provider, home }
    }

    fn golem(&self, line: &str) -> Ran {
        self.home.golem(&line.split(' ').collect::<Vec<_>>())
    }

    fn lease(&self) -> Value {
        self.golem("vm info box --json").exits(0).json()["lease"].clone()
    }

    fn end(&self) -> Timestamp {
        self.lease()["expires_at"].as_str().unwrap().parse().unwrap()
    }
}

#[test]
fn the_lease_that_is_asked_for_is_given_and_shown() {
    let market = Market::new();
    let ran =
        market.golem("vm create box --for 2h --on-expiry destroy --stop-when-idle 30m").exits(0);
    assert!(ran.stdout.contains("UTC (in 1 h 59 min), then everything in it is destroyed"));
    assert!(ran.stdout.contains("it is stopped after 30 min 0 s"), "{}", ran.stdout);
    let lease = market.lease();
    assert_eq!(lease["on_expiry"], "destroy");
    assert_eq!(lease["stop_when_idle_seconds"], 1_800);
    let ran = market.golem("vm list").exits(0);
    assert!(ran.stdout.contains("Ends") && ran.stdout.contains("in 1 h 59 min"), "{}", ran.stdout);
    assert!(!ran.stderr.contains("extend"), "{}", ran.stderr);
    assert_eq!(market.golem("vm list --json").json()["vms"][0]["lease"], lease);

    for wrong in ["--for 2", "--for 0s", "--for 4000d", "--stop-when-idle 1s", "--on-expiry keep"] {
        market.golem(&format!("vm create other {wrong}")).exits(2);
    }
}

#[test]
fn a_provider_whose_leases_are_too_short_is_not_chosen() {
    let market = Market::new();
    let cheaper = Provider::with_sshd(2, &market.sshd);
    cheaper.set(|state| {
        state.core_month = 1_000_000;
        state.lease = Some(terms(Some(86_400)));
    });
    market.discovery.list(&cheaper);
    market.golem("vm create box --for 3d").exits(0);
    assert_eq!((market.provider.vm_names().len(), cheaper.vm_names().len()), (1, 0));
    market
        .golem("vm create two --for 3d --provider-id provider-2")
        .exits(5)
        .says("rents for at most 1 d 0 h, 3 d 0 h are wanted");

    market.provider.set(|state| {
        state.lease = Some(terms(Some(2 * 86_400)));
        state.sequence += 1;
    });
    market.discovery.list(&market.provider);
    market
        .golem("vm create two --for 3d")
        .exits(3)
        .says("no provider matches (1 vCPU, 1 GB memory, 10 GB disk, for 3 d 0 h)")
        .says("provider-2")
        .says("the longest lease of those that match otherwise is 2 d 0 h: --for 2d");

    // One of an older release would rent it out without an end.
    market.discovery.withdraw(&cheaper);
    market.provider.set(|state| {
        state.lease = None;
        state.sequence += 1;
    });
    market.discovery.list(&market.provider);
    market.golem("vm create two --for 1h").exits(3).says("gives no leases");
    market.golem("vm create two").exits(0);
    let ran = market.golem("vm extend two --for 1h").exits(5);
    ran.says("older release");
    market.golem("vm destroy two --keep").exits(5).says("keeps nothing");
    assert_eq!(market.provider.vm_names().len(), 2);
}

#[test]
fn another_lease_than_asked_for_is_given_back() {
    let market = Market::new();
    market.provider.set(|state| {
        state.lie = Some(|vm| vm.lease.as_mut().unwrap().on_expiry = OnExpiry::Destroy);
    });
    market.golem("vm create box").exits(6).says("at the end of its lease is 'destroy', not 'stop'");
    market.provider.set(|state| {
        state.lie = Some(|vm| {
            vm.lease.as_mut().unwrap().expires_at = Some(now().plus(Duration::from_secs(60)));
        });
    });
    market.golem("vm create box --for 2h").exits(6).says("not 2 h 0 min");
    assert!(market.provider.vm_names().is_empty());
}

#[test]
fn a_lease_is_made_longer_once_also_when_the_answer_is_lost() {
    let market = Market::new();
    market.golem("vm create box --for 2h").exits(0);
    let before = market.end();
    market.provider.set(|state| state.cut_after_extend = 2);
    let ran = market.golem("vm extend box --for 3h").exits(0);
    assert!(ran.stdout.contains("'box' ends ") && ran.stdout.contains("(in 4 h 59 min)"));
    assert_eq!(market.end(), before.plus(Duration::from_secs(3 * 3_600)));
    assert_eq!(market.provider.count("POST /api/v1/vms/vm_"), 3);

    market.provider.set(|state| state.lease = Some(terms(Some(6 * 3_600))));
    market.golem("vm extend box --for 3h").exits(5).says("no lease is as long as that");
    let json = market.golem("vm extend box --for 1h --json").exits(0).json();
    assert_eq!(json["lease"]["expires_at"], json!(before.plus(Duration::from_secs(4 * 3_600))));
    market.golem("vm extend nobody --for 1h").exits(3);
    market.golem("vm extend box").exits(2).says("--for");
}

#[test]
fn what_ends_soon_is_told_with_the_command_that_helps() {
    let market = Market::new();
    market.golem("vm create box --for 2h").exits(0);
    market.provider.leases(|lease| lease.ends_soon = true);
    let warning = "golem vm extend box --for 3h";
    let ran = market.golem("vm list").exits(0).says(warning);
    assert!(ran.stdout.contains("soon! in 1 h "), "{}", ran.stdout);
    let ran = market.home.on_terminal(&["vm", "list", "--color", "always"], "").exits(0);
    assert!(ran.stdout.contains("\x1b[38;5;11m"), "{:?}", ran.stdout);
    for line in ["info box", "stop box", "start box", "stats box", "ssh box -- true"] {
        market.golem(&format!("vm {line}")).exits(0).says(warning);
    }
    let ran = market.golem("vm extend box --for 3h").exits(0);
    assert!(!ran.stderr.contains("extend"), "{}", ran.stderr);
}

#[test]
fn what_is_given_up_is_kept_and_comes_back() {
    let market = Market::new();
    market.golem("vm create box --for 2h").exits(0);
    let ids = market.provider.vm_ids();
    let ran = market.golem("vm destroy box --keep").exits(0);
    assert!(ran.stdout.contains("kept until ") && ran.stdout.contains("golem vm undelete box"));
    let ran = market.golem("vm list").exits(0).says("golem vm undelete box");
    assert!(ran.stdout.contains("ended, kept until "), "{}", ran.stdout);
    market
        .golem("vm start box")
        .exits(5)
        .says("it is only kept")
        .says("hint: golem vm undelete box");
    market.golem("vm extend box --for 1h").exits(5).says("golem vm undelete box");

    let ran = market.golem("vm undelete box --for 3h").exits(0).says("golem vm start box");
    assert!(ran.stdout.contains("'box' is back, and stopped"), "{}", ran.stdout);
    assert!(ran.stdout.contains("(in 2 h 59 min)"), "{}", ran.stdout);
    market.golem("vm start box").exits(0);
    assert_eq!(market.provider.vm_ids(), ids);
    market.golem("vm undelete box").exits(0).says("nothing to bring back");

    // Once it is erased it is off the list.
    market.golem("vm destroy box --keep").exits(0);
    market.provider.lose_vms();
    market.golem("vm list").exits(0).says("'box' is gone");
    market.golem("vm undelete box").exits(3);
}

#[test]
fn what_is_kept_can_be_destroyed_at_once() {
    let market = Market::new();
    market.golem("vm create box").exits(0);
    market.golem("vm destroy box --keep --json").exits(0);
    market.golem("vm destroy box --keep --forget").exits(2);
    market.golem("vm destroy box --yes").exits(0);
    assert!(market.provider.vm_names().is_empty());
    let listed = market.golem("vm list --json").exits(0).json();
    assert_eq!(listed, json!({"vms": []}));
}
