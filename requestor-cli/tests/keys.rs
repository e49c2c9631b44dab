//! `golem vm keys`, and which keys `create` takes.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::path::Path;

use golem_vm_protocol::vm::SshPublicKey;
use support::Home;
use support::discovery::Discovery;
use support::provider::Provider;
use support::sshd::Sshd;

struct Market {
    _sshd: Sshd,
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
        Self { _sshd: sshd, discovery, provider, home }
    }
}

fn fingerprint(private: &Path) -> String {
    let public = std::fs::read_to_string(private.with_extension("pub")).unwrap();
    public.parse::<SshPublicKey>().unwrap().fingerprint()
}

/// Logs in by hand with one key only.
fn lets_in(market: &Market, private: &Path) -> bool {
    let shown = market.home.golem(&["vm", "ssh", "box", "--json"]).exits(0).json();
    let ssh = &shown["ssh"];
    let ran = std::process::Command::new("ssh")
        .args(["-F", "none", "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"])
        .args(["-o", "StrictHostKeyChecking=yes", "-o"])
        .arg(format!("UserKnownHostsFile={}", market.home.base().join("known_hosts").display()))
        .arg("-o")
        .arg(format!("HostKeyAlias={}", shown["vm_id"].as_str().unwrap()))
        .arg("-i")
        .arg(private)
        .args(["-p", &ssh["port"].to_string(), "-l", ssh["user"].as_str().unwrap()])
        .args(["127.0.0.1", "true"])
        .output()
        .unwrap();
    ran.status.success()
}

#[test]
fn several_keys_log_in_and_come_and_go() {
    let market = Market::new();
    let home = &market.home;
    let [one, two, three] =
        ["one", "two", "three"].map(|name| home.ssh_key_as(name, &["-t", "ed25519"]));
    let path = |key: &Path| key.to_str().unwrap().to_owned();
    let public = |key: &Path| format!("{}.pub", path(key));
    home.golem(&["vm", "create", "box", "--ssh-key", &path(&one), "--ssh-key", &public(&two)])
        .exits(0);
    assert!(lets_in(&market, &one) && lets_in(&market, &two) && !lets_in(&market, &three));

    let list = home.golem(&["vm", "keys", "list", "box", "--json"]).exits(0).json();
    assert_eq!(list["keys"][0]["fingerprint"], fingerprint(&one));
    assert_eq!(list["keys"][0]["used_here"], true);
    assert_eq!(list["keys"][1]["used_here"], false);
    assert_eq!((&list["applied"], &list["name"]), (&true.into(), &"box".into()));

    let ran = home.golem(&["vm", "keys", "add", "box", &public(&three)]).exits(0);
    assert!(ran.stdout.contains(&fingerprint(&three)), "{}", ran.stdout);
    assert!(lets_in(&market, &three));
    // Again changes nothing, by whatever half.
    let again = home.golem(&["vm", "keys", "add", "box", &path(&three), "--json"]).exits(0).json();
    assert_eq!(again["keys"].as_array().unwrap().len(), 3);

    home.golem(&["vm", "keys", "remove", "box", &fingerprint(&two)]).exits(0).says("sessions");
    assert!(!lets_in(&market, &two) && lets_in(&market, &three));
    home.golem(&["vm", "keys", "rm", "box", &path(&two)]).exits(3).says("has no key SHA256:");
    home.golem(&["vm", "keys", "remove", "box", &path(&one)])
        .exits(0)
        .says("logs in with from here");
    let last = fingerprint(&three);
    home.golem(&["vm", "keys", "remove", "box", &last]).exits(5).says("--force");
    assert!(lets_in(&market, &three));
    let ran = home.golem(&["vm", "keys", "remove", "box", &last, "--force", "--json"]).exits(0);
    assert_eq!(ran.json()["keys"], serde_json::json!([]));
    assert!(!lets_in(&market, &three));
}

#[test]
fn a_stopped_vm_goes_by_new_keys_when_it_runs_next() {
    let market = Market::new();
    market.home.golem(&["vm", "create", "box"]).exits(0);
    market.home.golem(&["vm", "stop", "box"]).exits(0);
    let key = market.home.ssh_key_as("new", &["-t", "ecdsa", "-b", "521"]);
    let add = ["vm", "keys", "add", "box", key.to_str().unwrap()];
    market.home.golem(&add).exits(0).says("when it runs next");
    let json = market.home.golem(&[&add[..], &["--json"]].concat()).exits(0).json();
    assert_eq!(json["applied"], false);
}

#[test]
fn keys_of_no_vm_and_no_keys_have_their_exit_codes() {
    let market = Market::new();
    let key = market.home.ssh_key_as("new", &["-t", "ed25519"]);
    let key = key.to_str().unwrap();
    market.home.golem(&["vm", "keys", "list", "box"]).exits(3);
    market.home.golem(&["vm", "keys", "add", "box", key]).exits(3);
    market.home.golem(&["vm", "create", "box"]).exits(0);
    market.home.golem(&["vm", "keys", "add", "box"]).exits(2);
    market.home.golem(&["vm", "keys", "add", "box", "/no/such"]).exits(2).says("no key file");
    market.provider.lose_vms();
    market.home.golem(&["vm", "keys", "add", "box", key]).exits(3).says("does not exist any more");
}

#[test]
fn weak_keys_are_warned_about_and_weaker_ones_refused() {
    let market = Market::new();
    let rsa = market.home.ssh_key_as("rsa", &["-t", "rsa", "-b", "2048"]);
    let ran = market.home.golem(&["vm", "create", "box", "--ssh-key", rsa.to_str().unwrap()]);
    ran.exits(0).says("warning:").says("2048 bits").says("3072 bits");
    let good = market.home.ssh_key_as("good", &["-t", "rsa", "-b", "3072"]);
    let ran = market.home.golem(&["vm", "keys", "add", "box", good.to_str().unwrap()]).exits(0);
    assert!(!ran.stderr.contains("warning:"), "{}", ran.stderr);

    let weak = market.home.ssh_key_as("weak", &["-t", "rsa", "-b", "1024"]);
    let authority = market.home.ssh_key_as("ca", &["-t", "ed25519"]);
    let signed = market.home.ssh_key_as("signed", &["-t", "ed25519"]);
    let made = std::process::Command::new("ssh-keygen")
        .args(["-q", "-I", "me", "-s"])
        .arg(&authority)
        .arg(signed.with_extension("pub"))
        .status()
        .unwrap();
    assert!(made.success());
    let certificate = signed.with_file_name("signed-cert.pub");
    let dsa = market.home.path().join("dsa.pub");
    std::fs::write(&dsa, "ssh-dss AAAAB3NzaC1kc3MAAACB me\n").unwrap();
    let garbage = market.home.path().join("garbage.pub");
    std::fs::write(&garbage, "\u{1b}[2Jgarbage\n").unwrap();
    let weak_public = weak.with_extension("pub");
    for (file, words) in [
        (weak_public.as_path(), "1024 bits is too short"),
        (&certificate, "certificates (ssh-ed25519-cert-v01@openssh.com) are not accepted"),
        (&dsa, "DSA keys are not accepted"),
        (&garbage, "not a public SSH key"),
    ] {
        let file = file.to_str().unwrap();
        for command in
            [vec!["create", "other", "--ssh-key", file], vec!["keys", "add", "box", file]]
        {
            let ran = market.home.golem(&[&["vm"], &command[..]].concat()).exits(2).says(words);
            assert!(!ran.stderr.contains('\x1b'));
        }
    }
    assert_eq!(market.provider.vm_names(), ["box"]);
    let _ = &market.discovery;
}
