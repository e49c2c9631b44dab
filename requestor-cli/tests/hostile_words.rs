//! Whatever others write into whatever field, nothing of it has power over the terminal; and who asks
//! for a pause gets it.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use golem_vm_protocol::ErrorCode;
use golem_vm_protocol::KeyPair;
use golem_vm_protocol::document::{Document, Envelope};
use serde_json::{Value, json};
use support::discovery::Discovery;
use support::provider::Provider;
use support::sshd::Sshd;
use support::{Home, Ran};

/// Escapes that clear a screen, set a title and write to the clipboard; the same in C1; a direction
/// override; something invisible; and an end of line with something to believe behind it.
const WORDS: &str = "\u{1b}[2J\u{1b}]0;t\u{7}\u{9b}31m\u{9d}52;c;eA==\u{9c}\u{202e}\u{2066}\u{200b}\u{e0041}\r\nok: all is well\u{8}\u{7f}";

fn is_harmless(ran: &Ran, what: &str) {
    for (stream, text) in [("stdout", &ran.stdout), ("stderr", &ran.stderr)] {
        let bad = |c: char| {
            c != '\n' && (c.is_control() || "\u{202e}\u{2066}\u{200b}\u{e0041}".contains(c))
        };
        assert!(!text.contains(bad), "{what}: {stream} has {text:?}");
        assert!(!text.lines().any(|line| line.starts_with("ok: all is well")), "{what}: {text:?}");
        assert!(text.len() < 40_000, "{what}: {stream} is flooded with {} bytes", text.len());
    }
}

/// A document whatever it says.
#[derive(serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
struct Anything(Value);

impl Document for Anything {
    const TYPE: &'static str = "advertisement";
}

/// Every place of `value`, as JSON pointers.
fn places(value: &Value, at: &str, into: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                places(value, &format!("{at}/{name}"), into);
            }
        }
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                places(value, &format!("{at}/{index}"), into);
            }
        }
        _ => into.push(at.to_owned()),
    }
}

fn look(home: &Home, what: &str) {
    for arguments in [
        &["vm", "providers"][..],
        &["vm", "providers", "--unverified"],
        &["vm", "providers", "--unverified", "--json"],
    ] {
        is_harmless(&home.golem(arguments), &format!("{what}, {arguments:?}"));
    }
}

#[test]
fn no_field_of_a_listing_has_power_over_the_terminal() {
    let provider = Provider::new(1);
    let key = KeyPair::from_secret_bytes([1; 32]).unwrap();
    let good = provider.entry();
    let document = serde_json::to_value(provider.advertisement()).unwrap();
    let discovery = Discovery::new();
    let home = Home::with(&discovery);
    let huge = format!("{WORDS}{}", "x".repeat(5_000));
    let mut all = Vec::new();
    // In discovery's own fields, of a signed and of an unsigned provider.
    let mut pointers = Vec::new();
    places(&good, "", &mut pointers);
    for pointer in &pointers {
        let mut entry = good.clone();
        *entry.pointer_mut(pointer).unwrap() = json!(huge);
        let mut unsigned = entry.clone();
        unsigned.as_object_mut().unwrap().remove("document");
        all.extend([entry, unsigned]);
    }
    // In the signed words.
    let mut pointers = Vec::new();
    places(&document, "", &mut pointers);
    for pointer in &pointers {
        let mut said = document.clone();
        *said.pointer_mut(pointer).unwrap() = json!(huge);
        let mut entry = good.clone();
        let envelope = Envelope::seal(&Anything(said), &key).unwrap();
        entry["document"] = serde_json::to_value(envelope).unwrap();
        all.push(entry);
    }
    assert!(all.len() > 50);
    for entry in all {
        discovery.list_value(entry);
    }
    look(&home, "every field");
    discovery.refuse(&huge);
    look(&home, "a refusal");
}

#[test]
fn no_word_of_a_provider_has_power_over_the_terminal() {
    let sshd = Sshd::start();
    let discovery = Discovery::new();
    let provider = Provider::with_sshd(1, &sshd);
    discovery.list(&provider);
    let home = Home::with(&discovery);
    home.golem(&["vm", "create", "box"]).exits(0);
    provider.set(|state| {
        state.lie = Some(|vm| {
            vm.error_message = Some(WORDS.repeat(100));
            vm.image = Some(WORDS.repeat(100));
            vm.ssh_user = Some(WORDS.to_owned());
            vm.backend = Some(WORDS.to_owned());
        });
        state.access_lie = Some(|access| {
            access.ssh_host = WORDS.to_owned();
            access.ssh_user = Some(WORDS.to_owned());
            access.multipass_name = WORDS.to_owned();
        });
    });
    let commands: [&[&str]; 8] = [
        &["vm", "list"],
        &["vm", "list", "--json"],
        &["vm", "info", "box"],
        &["vm", "info", "box", "--json"],
        &["vm", "ssh", "box", "--", "true"],
        &["vm", "stats", "box"],
        &["vm", "stop", "box"],
        &["vm", "create", "other", "--verbose"],
    ];
    for command in commands {
        is_harmless(&home.golem(command), &format!("a lying provider, {command:?}"));
    }
    provider.set(|state| {
        state.lie = None;
        state.access_lie = None;
        state.refuse_all = true;
        state.refuse = Some((ErrorCode::StateConflict, WORDS));
    });
    for command in commands {
        is_harmless(&home.golem(command), &format!("a refusing provider, {command:?}"));
    }
}

#[test]
fn who_asks_for_a_pause_gets_it_and_the_person_is_told() {
    let sshd = Sshd::start();
    let discovery = Discovery::new();
    let provider = Provider::with_sshd(1, &sshd);
    discovery.list(&provider);
    let home = Home::with(&discovery);
    discovery.busy_once(1);
    home.golem(&["vm", "providers"]).exits(0).says("asks not to be asked so often: waiting 1 s");
    home.golem(&["vm", "create", "box"]).exits(0);
    provider.set(|state| state.busy_once = Some(1));
    home.golem(&["vm", "stop", "box"]).exits(0).says("asks not to be asked so often: waiting 1 s");
    // Longer than a command waits: said, and not waited for.
    provider.set(|state| state.busy_once = Some(u64::MAX));
    home.golem(&["vm", "start", "box"]).exits(5).says("asked too often");
}
