//! What happened to a VM: asked for, followed, and shown while it is made.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::io::{BufRead as _, BufReader};
use std::time::{Duration, Instant};

use golem_vm_protocol::vm::{Actor, Cause, EventKind, VmStage};
use support::discovery::Discovery;
use support::histories::{Histories, Stream};
use support::provider::Provider;
use support::sshd::Sshd;
use support::{Home, Ran};

const STEPS: [&str; 3] = ["fetching the image", "starting\u{1b}[31m the VM", "waiting for SSH"];

struct Market {
    provider: Provider,
    home: Home,
    _discovery: Discovery,
    _sshd: Sshd,
}

impl Market {
    fn new(stream: Stream) -> Self {
        let sshd = Sshd::start();
        let discovery = Discovery::new();
        let provider = Provider::with_sshd(1, &sshd);
        provider.set(|state| state.histories = Some(Histories::new(stream, &STEPS)));
        discovery.list(&provider);
        let home = Home::with(&discovery);
        Self { provider, home, _discovery: discovery, _sshd: sshd }
    }

    fn golem(&self, line: &str) -> Ran {
        self.home.golem(&line.split(' ').collect::<Vec<_>>())
    }

    fn histories(&self, change: impl FnOnce(&mut Histories, &str)) {
        let id = self.provider.vm_ids().first().unwrap().clone();
        self.provider.set(|state| change(state.histories.as_mut().unwrap(), &id));
    }
}

#[test]
fn a_create_shows_what_its_provider_does_as_it_happens() {
    let market = Market::new(Stream::Right);
    // By asking it would take for ever.
    market.provider.set(|state| state.slowness = u32::MAX);
    let started = Instant::now();
    let ran = market.golem("vm create box").exits(0);
    let at = |text: &str| ran.stderr.find(text).unwrap_or_else(|| panic!("{text}: {}", ran.stderr));
    assert!(at("fetching the image") < at("waiting for SSH"));
    assert!(!ran.stderr.contains('\x1b'), "the provider's words are made safe: {}", ran.stderr);
    // It is the signed answer that counts.
    assert!(market.provider.count("GET /api/v1/vms/jobs/") >= 1);
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
}

#[test]
fn a_create_comes_through_whatever_its_provider_streams() {
    for stream in [
        Stream::None,
        Stream::OtherHead,
        Stream::OtherSigner,
        Stream::OtherRequest,
        Stream::OtherVm,
        Stream::Gap,
        Stream::Cut,
        Stream::Silent,
        Stream::Endless,
    ] {
        let market = Market::new(stream);
        market.provider.set(|state| state.slowness = 3);
        let ran = market.golem("vm create box").exits(0);
        let shown = ran.stderr.contains("waiting for SSH");
        assert!(!shown, "nothing of this is believed: {}", ran.stderr);
        assert_eq!(market.provider.vm_names(), ["box"]);
    }
}

#[test]
fn the_history_of_a_vm_is_a_table() {
    let market = Market::new(Stream::Right);
    market.golem("vm create box").exits(0);
    market.histories(|histories, id| {
        histories.page = 2;
        histories.add(id, |event| {
            event.kind = EventKind::Lease;
            event.from = Some(VmStage::Running);
            event.actor = Actor::Requestor;
            event.cause = Cause::Requested;
            event.detail = Some("it ends\u{1b}[2J later".to_owned());
        });
    });
    let ran = market.golem("vm events box").exits(0);
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert!(lines[0].contains("Time (UTC)") && lines[0].contains("Why"), "{}", ran.stdout);
    assert!(lines[1].contains("creating") && lines[1].contains("you"), "{}", ran.stdout);
    assert!(ran.stdout.contains("creating → running"), "{}", ran.stdout);
    assert!(!ran.stdout.contains('\x1b'), "{}", ran.stdout);
    assert_eq!(lines.len(), 7, "{}", ran.stdout);
    let json = market.golem("vm events box --limit 2 --json").exits(0).json();
    let numbers: Vec<_> = json["events"].as_array().unwrap().iter().map(|e| &e["number"]).collect();
    assert_eq!(numbers, [5, 6]);
}

#[test]
fn the_history_of_a_vm_that_is_gone_can_still_be_asked_for() {
    let market = Market::new(Stream::Right);
    market.golem("vm create box").exits(0);
    let first = market.provider.vm_ids()[0].clone();
    market.golem("vm destroy box --yes").exits(0);
    let ran = market.golem("vm events box").exits(0);
    assert!(ran.stdout.contains("running → destroyed"), "{}", ran.stdout);
    // Another one takes the name; the first one goes by its id.
    market.golem("vm create box").exits(0);
    assert!(!market.golem("vm events box").exits(0).stdout.contains("destroyed"));
    let ran = market.golem(&format!("vm events {first}")).exits(0);
    assert!(ran.stdout.contains("running → destroyed"), "{}", ran.stdout);
    market.golem("vm events nobody").exits(3).says("you have no VM called 'nobody'");

    market.provider.lose_vms();
    market.golem("vm list").exits(0).says("golem vm events box");
    market.provider.set(|state| state.histories.as_mut().unwrap().events.clear());
    market.golem("vm events vm_none").exits(3);
    market.provider.set(|state| state.histories = None);
    market.golem("vm events box").exits(3);
}

#[test]
fn what_happens_is_followed_to_the_end() {
    for stream in [Stream::Right, Stream::Cut, Stream::None, Stream::Gap] {
        let market = Market::new(stream);
        market.provider.set(|state| state.slowness = 0);
        market.golem("vm create box").exits(0);
        let mut command = market.home.command(&["vm", "events", "box", "--follow", "--json"]);
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = lines.next().unwrap().unwrap();
        assert!(first.contains("\"number\":1"), "{first}");
        market.histories(|histories, id| {
            histories.passes(id, VmStage::Stopped);
            histories.passes(id, VmStage::Destroyed);
        });
        let mut numbers = vec![1];
        for line in lines {
            let event: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
            numbers.push(event["number"].as_u64().unwrap());
        }
        assert_eq!(child.wait().unwrap().code(), Some(0));
        let whole: Vec<u64> = (1..=numbers.len() as u64).collect();
        assert!(numbers == whole && numbers.len() >= 3, "{numbers:?}");
    }
}

#[test]
fn following_ends_by_an_interrupt() {
    let market = Market::new(Stream::Right);
    market.golem("vm create box").exits(0);
    let mut child = market.home.command(&["vm", "events", "box", "--follow"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let seen = lines.by_ref().take(2).filter(|line| line.is_ok()).count();
    assert_eq!(seen, 2);
    let started = Instant::now();
    while !market.provider.state.lock().unwrap().log.iter().any(|l| l.contains("stream?after=5")) {
        assert!(started.elapsed() < Duration::from_secs(60), "it never followed");
        std::thread::sleep(Duration::from_millis(10));
    }
    let pid = rustix::process::Pid::from_raw(child.id().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
