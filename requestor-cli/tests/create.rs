//! `golem vm create`: the choice, the login, and everything that can go wrong in between.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::time::{Duration, Instant};

use golem_vm_protocol::ErrorCode;
use serde_json::Value;
use support::Home;
use support::discovery::Discovery;
use support::provider::{HOST_KEY, Provider, Signing};
use support::sshd::Sshd;

/// A market with one provider and one person.
struct Market {
    sshd: Sshd,
    discovery: Discovery,
    provider: Provider,
    home: Home,
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

    /// Another provider that is listed; it is cheaper, so it is tried first.
    fn cheaper(&self, seed: u8) -> Provider {
        let provider = Provider::with_sshd(seed, &self.sshd);
        provider.set(|state| state.core_month = 1_000_000);
        self.discovery.list(&provider);
        provider
    }

    fn listed(&self) -> Vec<Value> {
        let ran = self.home.golem(&["vm", "list", "--json"]).exits(0);
        ran.json()["vms"].as_array().unwrap().clone()
    }
}

#[test]
fn it_ends_with_a_vm_that_was_logged_in_to() {
    let market = Market::new();
    let ran = market.home.golem(&["vm", "create", "my-webserver", "--cpu", "2"]).exits(0);
    for part in [
        "my-webserver",
        "running",
        "2 vCPU, 1 GB memory, 10 GB disk",
        "debian-12",
        "container (shares the host's kernel)",
        "$13.00 per month",
        "SHA256:",
        "golem vm ssh my-webserver",
        "ssh -F none -p ",
    ] {
        assert!(ran.stdout.contains(part), "{part}: {}", ran.stdout);
    }
    assert!(ran.stderr.contains("renting from provider-1"), "{}", ran.stderr);
    let took = market.home.golem(&["vm", "create", "two", "--json"]).exits(0).json();
    for part in ["search", "ask", "make", "open", "connect", "log_in", "total"] {
        assert!(took["took_ms"][part].is_u64(), "{part}: {took}");
    }
    market.home.golem(&["vm", "destroy", "two", "--yes"]).exits(0);
    assert!(ran.stderr.contains("the only match: container, ports verified"), "{}", ran.stderr);
    assert!(ran.stderr.contains("made an SSH key for you"), "{}", ran.stderr);
    assert!(!ran.stderr.contains('\x1b'), "the provider's words are made safe: {}", ran.stderr);

    // The printed command works as it is.
    let line = ran.stdout.lines().find_map(|line| line.strip_prefix("or")).unwrap().trim();
    let shell = std::process::Command::new("sh")
        .args(["-c", &format!("{line} echo by-hand")])
        .env("HOME", market.home.path())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&shell.stdout), "by-hand\n");

    let vm = &market.listed()[0];
    assert_eq!(vm["name"], "my-webserver");
    assert_eq!(vm["status"], "running");
    assert_eq!(vm["provider_ip"], "127.0.0.1");
    assert_eq!(vm["config"]["cpu"], 2);
    assert_eq!(vm["config"]["ssh_port"], market.sshd.port);
    assert_eq!(vm["config"]["stream_id"], Value::Null);
    assert_eq!(vm["created_at"].as_str().unwrap().len(), "2026-11-21 00:34:39".len());
    assert_eq!((&vm["stale"], &vm["confirmed"]), (&false.into(), &true.into()));
    let keys: Vec<&str> = vm.as_object().unwrap().keys().map(String::as_str).collect();
    assert!(keys.contains(&"vm_id") && keys.contains(&"ssh"), "{keys:?}");
}

#[test]
fn only_who_has_the_image_is_asked() {
    let market = Market::new();
    let other = Provider::with_sshd(2, &market.sshd);
    let digest = format!("sha256:{}", "5".repeat(64));
    other.set(|state| {
        state.digest.clone_from(&digest);
        state.core_month = 90_000_000;
    });
    market.discovery.list(&other);
    // The first one is cheaper, and has another one of that name.
    let exactly = format!("debian-12@{digest}");
    market.home.golem(&["vm", "create", "box", "--image", &exactly]).exits(0);
    assert_eq!((market.provider.vm_names().len(), other.vm_names().len()), (0, 1));
    let shown = market.home.golem(&["vm", "providers", "--image", &exactly]).exits(0).stdout;
    assert!(shown.contains("provider-2") && !shown.contains("provider-1"), "{shown}");

    let never = format!("debian-12@sha256:{}", "6".repeat(64));
    market
        .home
        .golem(&["vm", "create", "two", "--image", &never])
        .exits(3)
        .says(&format!("image {never})"))
        .says("has the image debian-12 as sha256:0123")
        .says(&format!("has the image debian-12 as {digest}"));
    let named = ["vm", "create", "two", "--image", "noble", "--provider-id", "provider-1"];
    market.home.golem(&named).exits(5).says("has no image ubuntu-24.04; it has debian-12");
    let wrong = ["vm", "create", "two", "--image", "debian-12@sha256:12"];
    market.home.golem(&wrong).exits(2).says("64 characters");
    assert_eq!((market.provider.vm_names().len(), other.vm_names().len()), (0, 1));
}

#[test]
fn json_is_one_object_and_nothing_else() {
    let market = Market::new();
    let ran = market.home.golem(&["vm", "create", "box", "--json", "--quiet"]).exits(0);
    let vm = ran.json();
    assert_eq!((vm["name"].as_str(), vm["status"].as_str()), (Some("box"), Some("running")));
    assert!(vm["ssh"]["command"].as_str().unwrap().contains("StrictHostKeyChecking=yes"));
    assert_eq!(ran.stderr, "");
    assert_eq!(
        market.home.golem(&["vm", "info", "box", "--json"]).exits(0).json()["vm_id"],
        vm["vm_id"]
    );
}

#[test]
fn wrong_wishes_are_told_before_anything_is_sent() {
    let market = Market::new();
    let create = |arguments: &[&str]| market.home.golem(&[&["vm", "create"], arguments].concat());
    create(&["My_Box"]).exits(2).says("can't be the name of a VM").says("3 to 64 characters");
    create(&["box", "--cpu", "3"]).exits(2).says("[1, 2, 4, 8, 16]");
    create(&["box", "--storage", "1"]).exits(2).says("choose 10 to");
    create(&["box", "--ssh-key", "/no/such/key.pub"])
        .exits(2)
        .says("there is no key file /no/such/key.pub");
    create(&["box", "--country", "SWE"]).exits(2);
    create(&["box", "--cpu", "16"])
        .exits(3)
        .says("no provider matches (16 vCPU, 1 GB memory, 10 GB disk)")
        .says("has 4 CPUs free, 16 are wanted")
        .says("golem vm providers");
    create(&["box", "--provider-id", "provider-2"]).exits(3).says("did you mean 'provider-1'?");
    create(&["box", "--provider-id", "provider-1", "--cpu", "8"]).exits(5).says("has 4 CPUs free");
    assert_eq!(market.provider.count("POST"), 0);
    assert!(market.listed().is_empty());
}

#[test]
fn a_provider_goes_by_id_by_prefix_and_by_name() {
    let market = Market::new();
    let id = market.provider.id().to_string();
    for (name, which) in [("one", id.as_str()), ("two", &id[..8]), ("three", "provider-1")] {
        market.home.golem(&["vm", "create", name, "--provider-id", which]).exits(0);
    }
    assert_eq!(market.provider.vm_names(), ["one", "two", "three"]);
}

#[test]
fn an_ambiguous_name_is_asked_about_with_ids() {
    let market = Market::new();
    let twin = market.cheaper(2);
    twin.set(|state| state.name = "provider-1".into());
    market.discovery.list(&twin);
    let arguments = ["vm", "create", "box", "--provider-id", "provider-1"];
    market
        .home
        .golem(&arguments)
        .exits(2)
        .says("2 providers go by 'provider-1'")
        .says(&twin.id().to_string())
        .says(&market.provider.id().to_string());
    let ran = market.home.on_terminal(&arguments, "2\n").exits(0);
    assert!(ran.stdout.contains("Which one? [1-2]"), "{}", ran.stdout);
    assert_eq!(twin.vm_names(), ["box"]);
}

#[test]
fn the_next_provider_is_taken_when_one_fails() {
    let market = Market::new();
    for (seed, change) in [
        (
            2_u8,
            (|p: &Provider| {
                p.set(|s| s.refuse = Some((ErrorCode::InsufficientCapacity, "it is full")))
            }) as fn(&Provider),
        ),
        (3, |p| p.set(|s| s.fail_operation = Some(ErrorCode::CreateFailed))),
        (4, Provider::stop),
        (5, |p| p.set(|s| s.signing = Signing::OtherKey)),
    ] {
        let bad = market.cheaper(seed);
        change(&bad);
        let name = format!("box-{seed}");
        let ran = market.home.golem(&["vm", "create", &name]).exits(0);
        assert!(ran.stderr.contains(&format!("renting from provider-{seed}")), "{}", ran.stderr);
        assert!(ran.stderr.contains("renting from provider-1"), "{}", ran.stderr);
        assert!(market.provider.vm_names().contains(&name));
        market.discovery.withdraw(&bad);
        // What the liar may have made is looked after once it tells the truth again.
        bad.set(|s| s.signing = Signing::Right);
    }
    assert_eq!(market.listed().len(), 4);
}

#[test]
fn one_vm_in_the_world_when_answers_get_lost() {
    let market = Market::new();
    market.provider.set(|state| state.cut_after_create = 2);
    market.home.golem(&["vm", "create", "box"]).exits(0);
    assert_eq!(market.provider.vm_names(), ["box"]);
    assert_eq!(market.provider.count("POST /api/v1/vms?async=true"), 3);
}

#[test]
fn a_provider_that_lost_track_is_told_to_destroy_it_later() {
    let market = Market::new();
    let bad = market.cheaper(2);
    // It obeys, and from then on nobody can believe what it says.
    bad.set(|state| state.signing = Signing::None);
    market
        .home
        .golem(&["vm", "create", "box"])
        .exits(0)
        .says("what answers at the provider's address is not that provider")
        .says("carries no signature");
    assert_eq!(market.provider.vm_names(), ["box"]);
    // Its replies were unsigned, but the request to destroy it was obeyed too.
    bad.set(|state| state.signing = Signing::Right);
    assert_eq!(market.listed().len(), 1);
    assert_eq!(bad.vm_names(), Vec::<String>::new());
}

#[test]
fn replies_that_are_not_the_providers_are_a_matter_of_security() {
    let market = Market::new();
    for signing in [Signing::None, Signing::OtherKey, Signing::Altered] {
        market.provider.set(|state| state.signing = signing);
        let ran =
            market.home.golem(&["vm", "create", "box", "--provider-id", "provider-1"]).exits(6);
        assert!(ran.stderr.contains("is not that provider"), "{}", ran.stderr);
        market.provider.set(|state| state.signing = Signing::Right);
        market.home.golem(&["vm", "list"]).exits(0);
        assert_eq!(market.provider.vm_names(), Vec::<String>::new());
    }
}

#[test]
fn refusals_have_their_exit_code_and_leave_nothing() {
    let market = Market::new();
    for (code, exit) in [
        (ErrorCode::InsufficientCapacity, 5),
        (ErrorCode::NameTaken, 5),
        (ErrorCode::NotTrusted, 5),
        (ErrorCode::ImageNotOffered, 5),
        (ErrorCode::BackendUnavailable, 4),
    ] {
        market.provider.set(|state| state.refuse = Some((code, "because\u{1b}[2J")));
        let ran = market.home.golem(&["vm", "create", "box"]).exits(exit);
        assert!(ran.stderr.contains("because") && !ran.stderr.contains('\x1b'), "{}", ran.stderr);
        assert!(market.listed().is_empty());
    }
    market.provider.set(|state| state.refuse = None);
    market.provider.stop();
    market.home.golem(&["vm", "create", "box"]).exits(4).says("nothing listens there");
    assert!(market.listed().is_empty());
}

#[test]
fn a_name_that_is_in_use_is_refused_and_a_vm_that_is_gone_is_no_obstacle() {
    let market = Market::new();
    market.home.golem(&["vm", "create", "box"]).exits(0);
    market
        .home
        .golem(&["vm", "create", "box"])
        .exits(5)
        .says("you have a VM called 'box' already")
        .says("golem vm ssh box");
    market.provider.lose_vms();
    market.home.golem(&["vm", "create", "box"]).exits(0).says("'box' is gone");
}

#[test]
fn changed_terms_are_accepted_only_if_they_are_no_worse() {
    let market = Market::new();
    market.provider.set(|state| {
        state.refuse_stale_offer = true;
        state.sequence = 2;
    });
    // Listed is still the first sequence.
    market.home.golem(&["vm", "create", "box"]).exits(5).says("not listed yet");
    assert!(market.provider.vm_names().is_empty());
    market.discovery.list(&market.provider);
    market.home.golem(&["vm", "create", "box"]).exits(0);
}

#[test]
fn a_failure_is_told_once() {
    let market = Market::new();
    market.provider.set(|state| {
        state.refuse = Some((ErrorCode::InsufficientCapacity, "the-reason"));
    });
    for more in [&[][..], &["--provider-id", "provider-1"][..]] {
        let ran = market.home.golem(&[&["vm", "create", "box"], more].concat()).exits(5);
        assert_eq!(ran.stderr.matches("the-reason").count(), 1, "{}", ran.stderr);
    }
    let other = market.cheaper(2);
    other.set(|state| state.refuse = Some((ErrorCode::PortsExhausted, "another-reason")));
    let ran = market.home.golem(&["vm", "create", "box"]).exits(5);
    assert_eq!(ran.stderr.matches("the-reason").count(), 1, "{}", ran.stderr);
}

#[test]
fn a_request_signed_before_the_providers_start_is_signed_once_more() {
    let market = Market::new();
    market.provider.set(|state| state.stale_once = true);
    market.home.golem(&["vm", "create", "box"]).exits(0);
}

#[test]
fn the_wrong_machine_behind_the_port_is_refused() {
    let market = Market::new();
    market.provider.set(|state| state.host_key = Some(HOST_KEY.to_owned()));
    let key = market.home.ssh_key("ed25519");
    for more in [&[][..], &["--builtin"][..]] {
        let key = key.to_str().unwrap();
        let named = ["vm", "create", "box", "--provider-id", "provider-1", "--ssh-key", key];
        let all = [&named, more].concat();
        market
            .home
            .golem(&all)
            .exits(6)
            .says("what answers at the address of 'box' is not that VM")
            .says("golem vm destroy box");
    }
    // It is kept, and the list says so.
    assert_eq!(market.listed()[0]["confirmed"], false);
    for more in [&[][..], &["--builtin"][..]] {
        let all = [&["vm", "ssh"], more, &["box", "--", "true"]].concat();
        market.home.golem(&all).exits(6).says("is not that VM");
    }
}

#[test]
fn a_deadline_that_passes_leaves_nothing() {
    let market = Market::new();
    // Its SSH never answers, so it is the deadline that ends it.
    market.provider.set(|state| state.ssh = None);
    let ran = market.home.golem(&["vm", "create", "box", "--timeout", "3"]).exits(7);
    assert!(ran.stderr.contains("took longer than 3 s"), "{}", ran.stderr);
    assert!(market.provider.vm_names().is_empty(), "nothing is left");
    assert!(market.listed().is_empty());
}

#[test]
fn every_kind_of_key_logs_in() {
    for kind in ["rsa", "ecdsa"] {
        let market = Market::new();
        let key = market.home.ssh_key(kind);
        market.home.golem(&["vm", "create", "box"]).exits(0);
        let command = market.home.golem(&["vm", "ssh", "box", "--json"]).exits(0).json();
        let command = command["ssh"]["command"].as_str().unwrap().to_owned();
        assert!(command.contains(key.to_str().unwrap()), "{command}");
        market.home.golem(&["vm", "ssh", "box", "--", "exit 3"]).exits(3);
    }
}

#[test]
fn a_create_that_was_killed_goes_on_with_the_same_vm() {
    let market = Market::new();
    market.provider.set(|state| state.slowness = 1_000);
    let mut child = market.home.command(&["vm", "create", "box"]).spawn().unwrap();
    wait_until(|| !market.provider.vm_names().is_empty());
    child.kill().unwrap();
    child.wait().unwrap();
    let ids = market.provider.vm_ids();

    let vm = &market.listed()[0];
    assert_eq!((vm["name"].as_str(), vm["status"].as_str()), (Some("box"), Some("creating")));
    assert_eq!(vm["vm_id"], ids[0].as_str());
    market.home.golem(&["vm", "create", "box", "--cpu", "2"]).exits(5).says("with other figures");

    market.provider.set(|state| state.slowness = 0);
    market.home.golem(&["vm", "create", "box"]).exits(0).says("that was cut off");
    assert_eq!(market.provider.vm_ids(), ids);
    assert_eq!(market.listed()[0]["confirmed"], true);
}

#[test]
fn a_create_that_was_killed_before_its_answer_came_finds_its_vm() {
    let market = Market::new();
    market.provider.set(|state| state.cut_after_create = u32::MAX);
    let mut child = market.home.command(&["vm", "create", "box"]).spawn().unwrap();
    wait_until(|| !market.provider.vm_names().is_empty());
    child.kill().unwrap();
    child.wait().unwrap();
    market.provider.set(|state| state.cut_after_create = 0);
    // Not asked before: the provider knows nothing but the key.
    market.home.golem(&["vm", "create", "box"]).exits(0);
    assert_eq!(market.provider.vm_names(), ["box"]);
}

#[test]
fn interrupting_destroys_what_was_begun() {
    let market = Market::new();
    market.provider.set(|state| state.slowness = 1_000);
    let child = market.home.command(&["vm", "create", "box"]).spawn().unwrap();
    wait_until(|| market.provider.count("GET /api/v1/vms/jobs/") > 1);
    interrupt(&child);
    let ran = support::Ran::of(child.wait_with_output().unwrap()).exits(130);
    assert!(ran.stderr.contains("nothing is left of 'box'"), "{}", ran.stderr);
    assert!(market.provider.vm_names().is_empty());
    assert!(market.listed().is_empty());
}

#[test]
fn interrupting_while_the_provider_is_silent_says_what_is_left() {
    let market = Market::new();
    market.provider.set(|state| state.slowness = 1_000);
    let child = market.home.command(&["vm", "create", "box"]).spawn().unwrap();
    wait_until(|| market.provider.count("GET /api/v1/vms/jobs/") > 1);
    market.provider.stop();
    interrupt(&child);
    // A second one that is meant; whenever it comes, the command ends and says the same.
    std::thread::sleep(Duration::from_millis(1500));
    interrupt(&child);
    let ran = support::Ran::of(child.wait_with_output().unwrap()).exits(130);
    assert!(ran.stderr.contains("the next `golem vm` command tries again"), "{}", ran.stderr);
    assert_eq!(market.provider.vm_names(), ["box"]);
    market.provider.start();
    assert!(market.listed().is_empty());
    assert!(market.provider.vm_names().is_empty());
}

fn interrupt(child: &std::process::Child) {
    let pid = rustix::process::Pid::from_raw(child.id().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
}

fn wait_until(condition: impl Fn() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_secs(30), "it never happened");
        std::thread::sleep(Duration::from_millis(10));
    }
}
