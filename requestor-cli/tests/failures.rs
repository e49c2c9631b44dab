//! How failures are told: to programs as JSON, to people in time, and without end to nobody.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::io::{BufRead as _, BufReader};
use std::time::{Duration, Instant};

use golem_vm_protocol::ErrorCode;
use serde_json::json;
use support::Home;
use support::discovery::Discovery;
use support::provider::Provider;
use support::sshd::Sshd;

struct Market {
    _sshd: Sshd,
    _discovery: Discovery,
    provider: Provider,
    home: Home,
}

fn market() -> Market {
    let sshd = Sshd::start();
    let discovery = Discovery::new();
    let provider = Provider::with_sshd(1, &sshd);
    discovery.list(&provider);
    let home = Home::with(&discovery);
    Market { _sshd: sshd, _discovery: discovery, provider, home }
}

#[test]
fn with_json_every_failure_is_one_object_on_stdout() {
    let market = market();
    for (arguments, exit, code) in [
        (&["vm", "info", "nope"][..], 3, "not_found"),
        (&["vm", "ssh", "nope"], 3, "not_found"),
        (&["vm", "ssh-config", "nope"], 3, "not_found"),
        (&["vm", "start", "nope"], 3, "not_found"),
        (&["vm", "stats", "nope"], 3, "not_found"),
        (&["vm", "keys", "list", "nope"], 3, "not_found"),
        (&["vm", "destroy", "nope", "--yes"], 3, "not_found"),
        (&["vm", "create", "box", "--cpu", "3"], 2, "usage"),
        (&["vm", "create", "box", "--cpu", "16"], 3, "not_found"),
        (&["vm", "create"], 2, "usage"),
        (&["vm", "bogus"], 2, "usage"),
        (&["config", "get", "nope"], 2, "usage"),
        (&["--discovery-url", "http://127.0.0.1:1", "vm", "providers"], 4, "unreachable"),
    ] {
        let ran = market.home.golem(&[arguments, &["--json"]].concat()).exits(exit);
        let error = &ran.json()["error"];
        assert_eq!((&error["code"], &error["exit_code"]), (&json!(code), &json!(exit)), "{ran:?}");
        let message = error["message"].as_str().unwrap();
        assert!(!message.is_empty() && ran.stderr.contains("error:"), "{ran:?}");
        let plain = market.home.golem(arguments).exits(exit);
        assert_eq!(plain.stdout, "", "only with --json");
    }
    market.provider.set(|state| {
        state.refuse = Some((ErrorCode::InsufficientCapacity, "it is full"));
    });
    let ran = market.home.golem(&["vm", "create", "box", "--json"]).exits(5);
    assert_eq!(ran.json()["error"]["problem"], "insufficient_capacity");
}

#[test]
fn what_was_done_all_the_same_is_told_with_the_failure() {
    let market = market();
    market.home.golem(&["vm", "create", "one"]).exits(0);
    let other = Provider::new(2);
    market.home.golem(&["vm", "create", "two"]).exits(0);
    let db = rusqlite::Connection::open(market.home.base().join("state.db")).unwrap();
    let moved = "UPDATE rentals SET provider_id = ?1 WHERE name = 'two'";
    db.execute(moved, [other.id().to_string()]).unwrap();
    drop(db);
    let ran = market.home.golem(&["vm", "destroy", "one", "two", "--yes", "--json"]);
    let shown = ran.json();
    assert_eq!(shown["destroyed"], json!(["one"]));
    assert!(shown["error"]["message"].as_str().unwrap().contains("two"), "{shown}");
}

#[test]
fn a_provider_that_hangs_is_named_soon_and_nothing_is_forgotten() {
    let market = market();
    market.home.golem(&["vm", "create", "box"]).exits(0);
    market.provider.set(|state| state.hang = true);
    for arguments in [&["vm", "destroy", "box", "--yes"][..], &["vm", "info", "box"]] {
        let started = Instant::now();
        let mut golem = market.home.command(arguments).spawn().unwrap();
        let said = BufReader::new(golem.stderr.take().unwrap())
            .lines()
            .map_while(Result::ok)
            .find(|line| line.contains("waiting for provider-1"));
        assert!(said.is_some(), "{arguments:?}");
        assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
        golem.kill().unwrap();
        golem.wait().unwrap();
    }
    market.provider.set(|state| state.hang = false);
    market.home.golem(&["vm", "info", "box"]).exits(0);
}

#[test]
fn a_reply_without_end_is_not_asked_for_again_and_again() {
    let market = market();
    market.home.golem(&["vm", "create", "box"]).exits(0);
    let before = market.provider.count("");
    market.provider.set(|state| state.bloat = 5 << 20);
    market.home.golem(&["vm", "info", "box"]).exits(0).says("longer than 4 MiB");
    market.home.golem(&["vm", "start", "box"]).exits(1).says("longer than 4 MiB");
    market.home.golem(&["vm", "keys", "list", "box"]).exits(1).says("longer than 4 MiB");
    assert!(market.provider.count("") <= before + 5, "{}", market.provider.count("") - before);
    let started = Instant::now();
    market.home.golem(&["vm", "create", "other"]).exits(1).says("longer than 4 MiB");
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
}
