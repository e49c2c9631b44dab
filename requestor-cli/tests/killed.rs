//! `golem` is killed at every step of a create, and the next run finds out what became of it: exactly one VM
//! is in the world then, which is on the list, or none.
#![cfg(feature = "fail-points")]
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use golem_vm_protocol::ErrorCode;
use request_vm_on_golem::fail_point::FailPoint;
use support::discovery::Discovery;
use support::provider::{Provider, Signing};
use support::sshd::Sshd;
use support::{Home, Ran};

const KILLED: i32 = 128 + 9;

/// Two providers, the second of which is cheaper and so is tried first, and one person.
struct Market {
    cheaper: Provider,
    dearer: Provider,
    home: Home,
    _discovery: Discovery,
    _sshd: Sshd,
}

impl Market {
    fn new() -> Self {
        let sshd = Sshd::start();
        let discovery = Discovery::new();
        let dearer = Provider::with_sshd(1, &sshd);
        let cheaper = Provider::with_sshd(2, &sshd);
        cheaper.set(|state| state.core_month = 1_000_000);
        discovery.list(&dearer);
        discovery.list(&cheaper);
        let home = Home::with(&discovery);
        home.ssh_key("ed25519");
        Self { cheaper, dearer, home, _discovery: discovery, _sshd: sshd }
    }

    fn golem(&self, line: &str) -> Ran {
        self.home.golem(&line.split(' ').collect::<Vec<_>>())
    }

    /// Runs `golem`, killed when it reaches `point`.
    fn killed_at(&self, point: &str, line: &str) -> Ran {
        let mut command = self.home.command(&line.split(' ').collect::<Vec<_>>());
        command.env("GOLEM_FAIL_POINT", point);
        command.env("GOLEM_FAIL_POINTS_REACHED", self.record());
        Ran::of(command.output().unwrap())
    }

    fn record(&self) -> PathBuf {
        self.home.path().join("reached")
    }

    /// Which points the killed commands have reached.
    fn reached(&self) -> BTreeSet<String> {
        let text = std::fs::read_to_string(self.record()).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// The ids of all VMs in the world.
    fn world(&self) -> Vec<String> {
        [self.cheaper.vm_ids(), self.dearer.vm_ids()].concat()
    }

    /// The ids on the person's list, and whether each is unfinished.
    fn listed(&self) -> Vec<(Option<String>, String)> {
        let list = self.golem("vm list --json").exits(0).json();
        let vms = list["vms"].as_array().unwrap().clone();
        vms.iter()
            .map(|vm| {
                (vm["vm_id"].as_str().map(str::to_owned), vm["status"].as_str().unwrap().to_owned())
            })
            .collect()
    }

    /// Lets so much time pass that no request can be on its way any more.
    fn later(&self) {
        let database = rusqlite::Connection::open(self.home.base().join("state.db")).unwrap();
        let long = i64::try_from(Duration::from_secs(3_600).as_micros()).unwrap();
        database
            .execute(
                "UPDATE rentals SET created_at = created_at - ?1, asked_at = asked_at - ?1,
                 silent_at = NULL",
                [long],
            )
            .unwrap();
    }

    /// Whether a create has come to its good end.
    fn has_ended(&self) -> bool {
        let path = self.home.base().join("state.db");
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
        let Ok(database) = rusqlite::Connection::open_with_flags(path, flags) else {
            return false;
        };
        let there = "SELECT EXISTS (SELECT 1 FROM rentals WHERE state = 'active')";
        database.query_row(there, [], |row| row.get(0)).unwrap_or(false)
    }

    /// Lists until nobody is at work any more: the provider takes a few looks to make a VM.
    fn settle(&self) {
        for _ in 0..5 {
            if self.listed().iter().all(|(_, status)| status == "running") {
                return;
            }
        }
    }

    /// What is in the world is on the list, and nothing else is.
    #[track_caller]
    fn agrees(&self, point: &str) {
        // It makes the database, if golem did not come as far as that.
        self.listed();
        self.later();
        let listed = self.listed();
        let known: Vec<String> = listed.iter().filter_map(|(id, _)| id.clone()).collect();
        assert_eq!(known.len(), listed.len(), "{point}: {listed:?}");
        assert_eq!(known, self.world(), "{point}");
        assert!(known.len() <= 1, "{point}: {known:?}");
        let claims = self.home.base().join("creating");
        let left = std::fs::read_dir(claims).map_or(0, |entries| entries.count());
        assert_eq!(left, 0, "{point}: a create is still claimed");
    }
}

/// Those that a create which just works comes through.
const STRAIGHT: &[FailPoint] = &[
    FailPoint::Chosen,
    FailPoint::Intended,
    FailPoint::Asking,
    FailPoint::Answered,
    FailPoint::Accepted,
    FailPoint::Followed,
    FailPoint::Made,
    FailPoint::Observed,
    FailPoint::Opened,
    FailPoint::AccessNoted,
    FailPoint::LoggedIn,
    FailPoint::Active,
];

#[test]
fn whatever_runs_next_tells_what_became_of_a_create_that_was_killed() {
    for (number, point) in STRAIGHT.iter().enumerate() {
        let point = point.name();
        let market = Market::new();
        market.killed_at(point, "vm create box").exits(KILLED);
        // Whatever command it is.
        let line = ["vm info box", "vm list", "vm ssh box -- true", "vm stats box"][number % 4];
        let ran = market.golem(line);
        match point {
            "create.chosen" => assert!(!ran.stderr.contains("cut off"), "{}", ran.stderr),
            "create.intended" => {
                assert!(ran.stderr.contains("came to nothing: nothing was sent"), "{}", ran.stderr);
            }
            // The provider was never asked, but golem can't know that.
            "create.asking" => assert!(ran.stderr.contains("is not decided yet"), "{}", ran.stderr),
            "create.active" => assert!(!ran.stderr.contains("cut off"), "{}", ran.stderr),
            _ => assert!(
                ran.stderr.contains("and cut off, has succeeded")
                    || ran.stderr.contains("still going on"),
                "{point}, {line}: {}",
                ran.stderr
            ),
        }
        let made = !["create.chosen", "create.intended", "create.asking"].contains(&point);
        market.settle();
        market.agrees(point);
        assert_eq!(market.world().len(), usize::from(made), "{point}");
        if made {
            // It may be there before anybody has logged in, and is shown as any other.
            assert!(!market.golem("vm list").exits(0).stdout.contains("not finished"), "{point}");
            market.golem("vm ssh box -- true").exits(0);
        }
        // It is told once.
        assert!(!market.golem("vm list").exits(0).stderr.contains("cut off"), "{point}");
    }
}

#[test]
fn the_same_create_again_ends_with_the_one_vm() {
    for point in STRAIGHT.iter().map(|point| point.name()) {
        let market = Market::new();
        market.killed_at(point, "vm create box").exits(KILLED);
        let before = market.world();
        let again = market.golem("vm create box");
        if point == "create.active" {
            again.exits(5).says("you have a VM called 'box' already");
        } else {
            again.exits(0);
        }
        let world = market.world();
        assert_eq!(world.len(), 1, "{point}: {world:?}");
        assert!(before.is_empty() || before == world, "{point}: {before:?} {world:?}");
        market.agrees(point);
    }
}

/// Kills a create at every step that it comes through when the first provider behaves as `change` has it; each
/// time exactly one VM is in the world afterwards. Gives which steps these were.
fn killed_on_the_way_to_the_next(what: &str, change: fn(&Provider)) -> BTreeSet<String> {
    let whole = Market::new();
    change(&whole.cheaper);
    whole.killed_at("none", "vm create box").exits(0);
    let steps = std::fs::read_to_string(whole.record()).unwrap();
    let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
    for step in steps.lines() {
        *counts.entry(step).or_default() += 1;
    }
    for (point, count) in &counts {
        // At the second provider it is the second time. How often one is asked how far it is says nothing new.
        for time in 1..=(*count).min(2) {
            let told = format!("{what}, {point}:{time}");
            let market = Market::new();
            change(&market.cheaper);
            let ran = market.killed_at(&format!("{point}:{time}"), "vm create box");
            assert_eq!(ran.code, KILLED, "{told}: {}", ran.stderr);
            market.cheaper.set(|state| state.signing = Signing::Right);
            market.settle();
            market.agrees(&told);
            if market.world().is_empty() {
                market.golem("vm create box").exits(0);
                market.agrees(&told);
            }
            assert_eq!(market.world().len(), 1, "{told}");
        }
    }
    counts.into_keys().map(str::to_owned).collect()
}

#[test]
fn going_over_from_a_provider_that_refuses_leaves_one_vm() {
    let steps = killed_on_the_way_to_the_next("refuses", |provider| {
        provider.set(|s| s.refuse = Some((ErrorCode::InsufficientCapacity, "full")));
    });
    assert!(steps.contains("failover.refused") && steps.contains("failover.forgotten"));
    for point in STRAIGHT {
        assert!(steps.contains(point.name()), "{} is never reached", point.name());
    }
}

#[test]
fn going_over_from_a_provider_that_fails_leaves_one_vm() {
    let steps = killed_on_the_way_to_the_next("fails", |provider| {
        provider.set(|s| s.fail_operation = Some(ErrorCode::CreateFailed));
    });
    assert!(steps.contains("failover.refused"));
}

#[test]
fn going_over_from_a_provider_that_made_another_vm_leaves_one_vm() {
    let steps = killed_on_the_way_to_the_next("lies", |provider| {
        provider.set(|s| s.lie = Some(|vm| vm.egress = Some("none".into())));
    });
    for step in ["failover.unwanted", "failover.destroyed", "failover.destroyed-noted"] {
        assert!(steps.contains(step), "{step} is never reached");
    }
}

#[test]
fn going_over_from_a_provider_that_can_not_be_believed_leaves_one_vm() {
    let steps = killed_on_the_way_to_the_next("muddled", |provider| {
        provider.set(|s| s.signing = Signing::None);
    });
    assert!(steps.contains("failover.unwanted"));
}

#[test]
fn a_clone_that_is_killed_is_settled_as_a_create_is() {
    for (number, point) in STRAIGHT.iter().enumerate() {
        let point = point.name();
        let market = Market::new();
        market.golem("vm create box --provider-id provider-2").exits(0);
        market.killed_at(point, "vm clone box two").exits(KILLED);
        let ran = market.golem(["vm info two", "vm list", "vm ssh box -- true"][number % 3]);
        let nothing = "came to nothing: nothing was sent";
        assert_eq!(ran.stderr.contains(nothing), point == "create.intended", "{}", ran.stderr);
        let made = !["create.chosen", "create.intended", "create.asking"].contains(&point);
        market.settle();
        market.later();
        let known: BTreeSet<_> = market.listed().into_iter().map(|(id, _)| id.unwrap()).collect();
        assert_eq!(known, market.world().into_iter().collect(), "{point}");
        assert_eq!(known.len(), 1 + usize::from(made), "{point}");
        // The same again goes on with it, or makes it.
        let again = market.golem("vm clone box two");
        let there = point == "create.active";
        assert_eq!(again.code, if there { 5 } else { 0 }, "{point}: {}", again.stderr);
        assert_eq!(market.world().len(), 2, "{point}");
        market.golem("vm ssh two -- true").exits(0);
    }
}

#[test]
fn the_same_clone_again_goes_on_with_the_one_that_was_killed() {
    for point in ["create.asking", "create.answered", "create.made", "create.access-noted"] {
        let market = Market::new();
        market.golem("vm create box --provider-id provider-2").exits(0);
        market.killed_at(point, "vm clone box two").exits(KILLED);
        let before = market.world();
        market.golem("vm clone box two").exits(0).says("going on with the clone 'two'");
        let world = market.world();
        assert!(world.len() == 2 && (before.len() == 1 || before == world), "{point}");
        market.golem("vm clone box two --for 2h").exits(5).says("already");
    }
}

#[test]
fn every_point_is_tried_above() {
    let tried = ["failover.", "settle."];
    for point in FailPoint::ALL {
        let straight = STRAIGHT.contains(point);
        assert!(straight || tried.iter().any(|begin| point.name().starts_with(begin)), "{point:?}");
    }
}

#[test]
fn settling_itself_can_be_killed() {
    for point in FailPoint::ALL.iter().map(|point| point.name()) {
        if !point.starts_with("settle.") {
            continue;
        }
        let market = Market::new();
        market.cheaper.set(|state| state.slowness = 0);
        market.killed_at("create.answered", "vm create box").exits(KILLED);
        market.killed_at(point, "vm list").exits(KILLED);
        assert!(market.reached().contains(point));
        market.agrees(point);
        assert_eq!(market.world().len(), 1, "{point}");
        market.golem("vm ssh box -- true").exits(0);
    }
}

#[test]
fn what_a_silent_provider_may_have_made_is_destroyed_when_it_answers() {
    let market = Market::new();
    market.cheaper.set(|state| state.cut_after_create = u32::MAX);
    market.killed_at("failover.unwanted", "vm create box").exits(KILLED);
    assert_eq!(market.cheaper.vm_names(), ["box"]);
    market.cheaper.stop();
    for line in ["vm list", "vm create box", "vm info box"] {
        market.golem(line).exits(0);
        assert_eq!(market.cheaper.vm_names(), ["box"], "{line}");
    }
    market.cheaper.start();
    market.cheaper.set(|state| state.cut_after_create = 0);
    market.later();
    market.golem("vm ssh box -- true").exits(0);
    assert_eq!(market.cheaper.vm_names(), Vec::<String>::new());
    market.agrees("silent");
    assert_eq!(market.world().len(), 1);
}

#[test]
fn a_vm_of_the_same_name_that_something_else_has_made_is_left_alone() {
    let market = Market::new();
    market.golem("vm create box --provider-id provider-2").exits(0);
    let theirs = market.cheaper.vm_ids();
    // Another machine of the same person, which does not know that VM.
    let database = market.home.base().join("state.db");
    for file in ["state.db", "state.db-wal", "state.db-shm"] {
        let _ = std::fs::remove_file(database.with_file_name(file));
    }
    market.cheaper.stop();
    market.killed_at("create.asking", "vm create box --provider-id provider-2").exits(KILLED);
    market.cheaper.start();
    market
        .golem("vm list")
        .exits(0)
        .says("came to nothing: another VM of that name was there already")
        .says("is yours too, though it was not on this machine's list");
    assert_eq!(market.cheaper.vm_ids(), theirs);
}

#[test]
fn a_create_that_is_going_on_is_left_alone() {
    let market = Market::new();
    market.cheaper.set(|state| state.slowness = u32::MAX);
    let mut child = market.home.command(&["vm", "create", "box"]).spawn().unwrap();
    let started = std::time::Instant::now();
    while market.cheaper.count("GET /api/v1/vms/jobs/") == 0 {
        assert!(started.elapsed() < Duration::from_secs(60), "it never asked");
        std::thread::sleep(Duration::from_millis(10));
    }
    let ran = market.golem("vm list").exits(0);
    assert!(!ran.stderr.contains("cut off"), "{}", ran.stderr);
    market.golem("vm create box").exits(5).says("another golem is creating 'box' at this moment");
    child.kill().unwrap();
    child.wait().unwrap();
    market.golem("vm list").exits(0).says("is still going on (starting");
    market.cheaper.set(|state| state.fail_operation = Some(ErrorCode::CreateFailed));
    market.golem("vm list").exits(0).says("has failed: the engine said no");
    market.agrees("failed");
    assert!(market.world().is_empty());
}

#[test]
fn an_interrupt_at_any_moment_leaves_nothing_that_is_not_known() {
    let mut interrupted = 0;
    // After so many requests: past the last one the create has ended.
    for requests in 0..12 {
        let market = Market::new();
        market.cheaper.set(|state| state.slowness = 4);
        let child = market.home.command(&["vm", "create", "box"]).spawn().unwrap();
        let pid = rustix::process::Pid::from_raw(child.id().try_into().unwrap()).unwrap();
        let started = std::time::Instant::now();
        while market.cheaper.count("") < requests && !market.has_ended() {
            assert!(started.elapsed() < Duration::from_secs(60), "{requests}: it does not get on");
            std::thread::sleep(Duration::from_millis(2));
        }
        // It may have ended by itself meanwhile.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
        let ran = Ran::of(child.wait_with_output().unwrap());
        assert!([0, 130].contains(&ran.code), "{requests}: {}: {}", ran.code, ran.stderr);
        interrupted += usize::from(ran.code == 130);
        market.agrees(&format!("after {requests} requests"));
        assert_eq!(market.world().len(), usize::from(ran.code == 0), "{requests}: {}", ran.stderr);
    }
    assert!(interrupted > 5, "{interrupted}");
}
