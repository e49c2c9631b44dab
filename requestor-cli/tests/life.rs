//! What can be done with a VM beside starting and stopping it: suspending, snapshots, clones, other sizes, its
//! console; and what is told where it can't.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::io::Write as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use golem_vm_protocol::ErrorCode;
use golem_vm_protocol::vm::Isolation;
use serde_json::json;
use support::discovery::Discovery;
use support::provider::Provider;
use support::sshd::Sshd;
use support::{Home, Ran};

struct Rented {
    _sshd: Sshd,
    discovery: Discovery,
    provider: Provider,
    home: Home,
}

impl Rented {
    /// A person with one VM, `box`: a virtual machine that is emulated.
    fn new() -> Self {
        let sshd = Sshd::start();
        let discovery = Discovery::new();
        let provider = Provider::with_sshd(1, &sshd);
        provider.set(|state| {
            state.isolation = Isolation::Vm;
            state.accel = Some("tcg".into());
        });
        discovery.list(&provider);
        let home = Home::with(&discovery);
        home.ssh_key("ed25519");
        home.golem(&["vm", "create", "box"]).exits(0);
        Self { _sshd: sshd, discovery, provider, home }
    }

    fn golem(&self, line: &str) -> Ran {
        self.home.golem(&line.split(' ').collect::<Vec<_>>())
    }
}

#[test]
fn what_a_vm_is_is_told_as_its_provider_says_it() {
    let rented = Rented::new();
    let shown = rented.golem("vm info box").exits(0).stdout;
    for words in [
        "vm (has a kernel of its own)",
        "emulated in software: slow",
        "sha256:0123",
        "docker",
        "suspend, snapshots, live snapshots, clone",
    ] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
    let vm = rented.golem("vm info box --json").exits(0).json();
    assert_eq!(
        (&vm["isolation"], &vm["accel"], &vm["suspended"], &vm["image_digest"]),
        (&json!("vm"), &json!("tcg"), &json!(false), &json!("sha256:0123"))
    );
    assert!(vm["abilities"].as_array().unwrap().contains(&json!("live_snapshots")), "{vm}");
    assert!(rented.golem("vm list").exits(0).stdout.contains("vm, emulated: slow"));
    let shown = rented.golem("vm providers --isolation vm").exits(0).stdout;
    assert!(shown.contains("vm, emulated: slow"), "{shown}");
    rented.golem("vm create two --isolation container").exits(3).says("isolation 'container'");
}

#[test]
fn an_emulated_vm_in_place_of_a_real_one_is_given_back() {
    let rented = Rented::new();
    rented.provider.set(|state| {
        state.accel = Some("kvm".into());
        state.sequence = 2;
        state.lie = Some(|vm| vm.accel = Some("tcg".into()));
    });
    rented.discovery.list(&rented.provider);
    rented.golem("vm create two").exits(6).says("it is emulated, and so slow");
    rented.provider.set(|state| state.lie = Some(|vm| vm.accel = None));
    rented.golem("vm create two").exits(6).says("it does not say whether it is emulated");
    assert_eq!(rented.provider.vm_names(), ["box"]);
}

#[test]
fn suspended_and_back() {
    let rented = Rented::new();
    let golem = |line: &str| rented.golem(line).exits(0);
    assert_eq!(golem("vm suspend box").stdout, "'box' is suspended\n");
    // Twice is once.
    let vm = golem("vm suspend box --json").json();
    assert_eq!((&vm["status"], &vm["suspended"]), (&json!("stopped"), &json!(true)));
    assert!(golem("vm list").stdout.contains("suspended"));
    assert!(golem("vm info box").stdout.contains("suspended"));
    rented.golem("vm resize box --cpu 2").exits(5).says("golem vm resume box");
    assert_eq!(golem("vm resume box").stdout, "'box' is running\n");
    golem("vm stop box");
    rented.golem("vm suspend box").exits(5).says("can't suspend 'box'").says("it is stopped");
    rented.golem("vm resume box").exits(5).says("it is not suspended");
}

#[test]
fn snapshots_are_made_listed_gone_back_to_and_deleted() {
    let rented = Rented::new();
    let golem = |line: &str| rented.golem(line).exits(0);
    golem("vm snapshot list box").says("has no snapshots");
    let made = golem("vm snapshot create box first");
    assert_eq!(made.stdout, "'box' has the snapshot 'first', with its memory\n");
    rented.golem("vm snapshot create box first").exits(5).says("golem vm snapshot list box");
    // A lost answer makes no second one.
    rented.provider.set(|state| state.cut_after_snapshot = 1);
    let made = golem("vm snapshot create box --json").json();
    assert_eq!(made["snapshot"]["bytes"], 700 << 20);
    let list = golem("vm snapshot list box --json").json();
    assert_eq!(list["snapshots"].as_array().unwrap().len(), 2, "{list}");
    let shown = golem("vm snapshots ls box").stdout;
    assert!(shown.contains("disk and memory") && shown.contains("700.0 MiB"), "{shown}");

    golem("vm stop box");
    let back = golem("vm snapshot restore box first").stdout;
    assert_eq!(back, "'box' is as it was at 'first', and running\n");
    let asked = rented.home.on_terminal(&["vm", "snapshot", "restore", "box", "first"], "n\n");
    assert!(asked.stdout.contains("What it has written since is lost. [y/N]"), "{}", asked.stdout);
    rented.golem("vm snapshot restore box never").exits(3).says("golem vm snapshot list box");
    rented.golem("vm snapshot restore box No!").exits(2);
    golem("vm snapshot delete box first");
    rented.golem("vm snapshot delete box first").exits(3);
    assert_eq!(
        golem("vm snapshot list box --json").json()["snapshots"].as_array().unwrap().len(),
        1
    );
}

#[test]
fn a_clone_has_its_own_host_key_and_is_logged_in_to() {
    let rented = Rented::new();
    let other = Sshd::start();
    rented.provider.set(|state| {
        let authorized = other.authorized.clone();
        state.ssh = Some((other.port, other.host_key.clone(), other.user.clone(), authorized));
    });
    let ran = rented.golem("vm clone box two").exits(0).says("renting from provider-1");
    assert!(ran.stdout.contains("golem vm ssh two"), "{}", ran.stdout);
    let known = std::fs::read_to_string(rented.home.base().join("known_hosts")).unwrap();
    let keys: Vec<&str> =
        known.lines().filter(|line| line.starts_with("vm_")).map(|l| &l[30..]).collect();
    assert!(keys.len() == 2 && keys[0] != keys[1], "{known}");
    rented.golem("vm ssh two -- true").exits(0);
    assert!(ran.stdout.contains("Took"), "{}", ran.stdout);
    let vm = rented.golem("vm info two --json").exits(0).json();
    assert!(vm.get("took_ms").is_none());
    assert_eq!((&vm["config"]["cpu"], &vm["accel"]), (&json!(1), &json!("tcg")));

    rented.golem("vm clone box two").exits(5).says("you have a VM called 'two' already");
    rented.golem("vm clone nobody three").exits(3).says("you have no VM called 'nobody'");
    rented.golem("vm clone box NO!").exits(2);
    rented.golem("vm suspend box").exits(0);
    rented.golem("vm clone box three").exits(5).says("golem vm resume box");
    assert_eq!(rented.provider.vm_names(), ["box", "two"]);
    // A clone of what is not the same any more is given back.
    rented.golem("vm resume box").exits(0);
    rented.provider.set(|state| {
        state.lie = Some(|vm| {
            if vm.name.as_str() == "three" {
                vm.image_digest = Some("sha256:evil".into());
            }
        })
    });
    rented.golem("vm clone box three").exits(6).says("sha256:evil");
    assert_eq!(rented.provider.vm_names(), ["box", "two"]);
    assert_eq!(rented.golem("vm list --json").json()["vms"].as_array().unwrap().len(), 2);
}

#[test]
fn a_clone_costs_what_its_provider_asks_today() {
    let rented = Rented::new();
    rented.provider.set(|state| {
        state.core_month = 9_000_000;
        state.sequence = 2;
    });
    rented.discovery.list(&rented.provider);
    // Advertised: so it is agreed.
    rented.golem("vm clone box two").exits(0).says("$12.00 per month");
    // Not advertised, and dearer than the VM that is cloned: nobody has agreed to that.
    rented.discovery.withdraw(&rented.provider);
    rented.golem("vm clone box three").exits(6).says("its price is $12.00 per month, not $8.00");
    assert_eq!(rented.provider.vm_names(), ["box", "two"]);
}

#[test]
fn another_size_is_told_with_its_price() {
    let rented = Rented::new();
    let ran = rented.golem("vm resize box --cpu 2 --storage 20").exits(0);
    assert_eq!(ran.stdout, "'box' has 2 vCPU, 1 GB memory, 20 GB disk\n");
    for words in ["$14.00 per month in place of $8.00", "golem vm restart box"] {
        assert!(ran.stderr.contains(words), "{words}: {}", ran.stderr);
    }
    let vm = rented.golem("vm info box --json").exits(0).json();
    assert_eq!((&vm["config"]["cpu"], &vm["usd_per_month"]), (&json!(2), &json!(14.0)));
    rented.golem("vm resize box").exits(2).says("--cpu");
    rented.golem("vm resize box --storage 10").exits(2).says("no disk is ever made smaller");
    rented.golem("vm resize box --cpu 3").exits(2);
    rented.golem("vm resize box --cpu 16").exits(5).says("there are not so many CPUs");
    assert_eq!(rented.golem("vm info box --json").json()["config"]["cpu"], 2);
}

#[test]
fn the_console_is_shown_without_its_colours_and_spoken_with() {
    let rented = Rented::new();
    rented.provider.set(|state| state.console.extend(b"\x1b[31mred\x1b]0;evil\x07\r\n"));
    let shown = rented.golem("vm console box").exits(0).says("what came before is not kept");
    assert_eq!(shown.stdout, "Debian GNU/Linux 12 box ttyS0\n\nbox login: red\n");
    let log = rented.golem("vm console box --log --json").exits(0).json();
    assert_eq!((&log["truncated"], &log["text"]), (&json!(true), &json!(shown.stdout)));
    let bytes = data_encoding::BASE64.decode(log["data"].as_str().unwrap().as_bytes()).unwrap();
    assert!(bytes.ends_with(b"\x1b[31mred\x1b]0;evil\x07\r\n"));

    // Following goes on until it ends.
    let mut child = rented.home.command(&["vm", "console", "box", "--follow"]).spawn().unwrap();
    let started = Instant::now();
    while rented.provider.count("GET /api/v1/vms/") < 1
        || !rented.provider.state.lock().unwrap().log.iter().any(|l| l.ends_with("console/stream"))
    {
        assert!(started.elapsed() < Duration::from_secs(60), "it never asked");
        std::thread::sleep(Duration::from_millis(10));
    }
    rented.provider.set(|state| state.typed.extend(b"exit\n"));
    child.stdin.take().map(|mut stdin| stdin.flush());
    let ran = Ran::of(child.wait_with_output().unwrap()).exits(0).says("the VM has stopped");
    assert!(ran.stdout.ends_with("ready\nexit\nbye\n"), "{}", ran.stdout);
    rented.golem("vm console box --interactive").exits(2).says("needs a terminal");
}

#[test]
fn every_key_is_the_vms_until_it_is_left() {
    let rented = Rented::new();
    let console = format!("{} vm console box -i", env!("CARGO_BIN_EXE_golem"));
    let typed = "ls\r\x03\x1dnot this";
    let shown = rented.home.in_terminal_when(&console, "ready", typed).exits(0).stdout;
    assert_eq!(rented.provider.state.lock().unwrap().typed, b"ls\r\x03");
    assert!(shown.contains("Ctrl-] to leave it"), "{shown}");
    assert!(shown.contains("left the console of 'box'"), "{shown}");
    // The terminal is as it was: what it shows begins at the left again.
    rented.provider.set(|state| state.typed.clear());
    let line = format!("{console}; stty -a");
    let shown = rented.home.in_terminal_when(&line, "ready", "exit\r").exits(0).stdout;
    assert!(shown.contains("the VM has stopped") && shown.contains(" icanon"), "{shown}");
}

#[test]
fn what_a_backend_can_not_do_is_one_sentence() {
    let rented = Rented::new();
    rented.provider.set(|state| state.abilities.clear());
    for (line, doing) in [
        ("vm suspend box", "suspend 'box'"),
        ("vm resume box", "resume 'box'"),
        ("vm snapshot create box x", "make the snapshot 'x' of 'box'"),
        ("vm snapshot list box", "ask for the snapshots of 'box'"),
        ("vm clone box two", "clone 'box' as 'two'"),
        ("vm resize box --cpu 2", "resize 'box'"),
        ("vm console box", "read the console of 'box'"),
    ] {
        let ran = rented.golem(line).exits(5).says(&format!("can't {doing}"));
        assert!(ran.stderr.contains("docker has no such thing"), "{line}: {}", ran.stderr);
        let failure = rented.golem(&format!("{line} --json")).exits(5).json();
        assert_eq!(failure["error"]["problem"], "not_supported", "{line}");
    }
    assert_eq!(rented.golem("vm list --json").json()["vms"].as_array().unwrap().len(), 1);
    // Nor is a clone left to be settled.
    assert!(!rented.golem("vm list").stderr.contains("cut off"));
    rented.provider.lose_vms();
    rented.golem("vm suspend box").exits(3).says("does not exist any more");
}

#[test]
fn cloud_init_is_sent_as_it_is_and_looked_at_before() {
    let rented = Rented::new();
    let text = "#cloud-config\npackages:\n  - git\n";
    std::fs::write(rented.home.path().join("user-data"), text).unwrap();
    rented.golem("vm create two --cloud-init user-data").exits(0);
    let sent = || rented.provider.state.lock().unwrap().cloud_init.clone();
    assert_eq!(sent().as_deref(), Some(text));
    let mut command = rented.home.command(&["vm", "create", "three", "--cloud-init", "-"]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"#!/bin/sh\ntrue\n").unwrap();
    Ran::of(child.wait_with_output().unwrap()).exits(0);
    assert_eq!(sent().as_deref(), Some("#!/bin/sh\ntrue\n"));

    // Who has only containers is not asked.
    let containers = Provider::new(2);
    containers.set(|state| state.core_month = 1_000);
    rented.discovery.list(&containers);
    rented.golem("vm create five --cloud-init user-data").exits(0);
    assert!(containers.vm_names().is_empty());

    let creates = rented.provider.count("POST");
    std::fs::write(rented.home.path().join("bad"), "packages: [git]\n").unwrap();
    rented.golem("vm create four --cloud-init bad").exits(2).says("#cloud-config");
    rented.golem("vm create four --cloud-init nowhere").exits(2).says("nowhere");
    assert_eq!(rented.provider.count("POST"), creates);
    rented.provider.set(|state| {
        state.refuse = Some((ErrorCode::NotSupported, "containers know no cloud-init"));
    });
    rented.golem("vm create four --cloud-init user-data").exits(5).says("containers know no");
}
