//! What every backend goes through.

use std::time::Duration;

use golem_vm_end_to_end::{Market, Requestor, eventually, within};
use serde_json::Value;

use super::ground::Ground;

/// Longest that a machine may take to do something, emulated ones too.
const SLOW: Duration = Duration::from_secs(300);

struct Play {
    requestor: Requestor,
    backend: &'static str,
    abilities: Vec<String>,
}

impl Play {
    /// Whether the backend can; if not, that is said.
    fn can(&self, ability: &str, what: &str) -> bool {
        let can = self.abilities.iter().any(|one| one == ability);
        if !can {
            eprintln!(
                "left out on {}: {what}: it does not say that it can ({ability})",
                self.backend
            );
        }
        can
    }

    fn golem(&self, arguments: &[&str]) {
        self.requestor.golem(arguments).done();
    }

    /// A command in a VM, against its pinned host key.
    fn inside(&self, vm: &str, command: &str) -> String {
        self.requestor.in_vm(vm, command).trim().to_owned()
    }

    fn vm(&self, name: &str) -> Value {
        self.requestor.vm(name)
    }
}

pub(crate) fn run(ground: Ground) {
    let Ground { mut market, name: backend, stand_in } = ground;
    let requestor = market.requestor();
    let created = requestor.golem(&["vm", "create", "box"]).done();
    assert!(created.stdout.contains("ssh "), "{created}");
    let vm = requestor.vm("box");
    let listed = vm["abilities"].as_array().cloned().unwrap_or_default();
    let abilities = listed.iter().filter_map(|one| one.as_str().map(str::to_owned)).collect();
    let play = Play { requestor, backend, abilities };
    eprintln!("{backend}: {}, {:?}", vm["isolation"], play.abilities);

    logins(&play);
    limits(&play);
    power(&play, &market);
    suspend(&play);
    snapshots(&play);
    clones(&play, &market);
    resize(&play);
    provider_killed(&play, &mut market);
    expiry(&play);

    play.golem(&["vm", "destroy", "box", "--yes"]);
    assert!(play.requestor.vms().is_empty());
    assert_eq!(market.provider().status()["vms"], serde_json::json!([]));
    if let Some(stand_in) = &stand_in {
        eventually("no instance is left", || stand_in.instances().is_empty());
        assert_eq!(stand_in.marks(), "", "what must never be done");
    }
    market.close();
}

fn logins(play: &Play) {
    assert_eq!(play.inside("box", "whoami"), "ubuntu");
    assert_eq!(play.inside("box", "sudo whoami"), "root");
    assert_eq!(play.inside("box", "hostname"), "box");
    // OpenSSH itself checks the host key against what the provider signed.
    let by_hand = play.requestor.printed_ssh("box", "whoami").done();
    assert_eq!(by_hand.stdout.trim(), "ubuntu");
}

/// One vCPU and 1 GiB were rented.
fn limits(play: &Play) {
    // A container sees its host's processors and memory; what it gets of them is tried in tests of its own.
    if play.vm("box")["isolation"] == "container" {
        eprintln!("left out on {}: limits as seen inside: its guests see the host's", play.backend);
        return;
    }
    assert_eq!(play.inside("box", "nproc"), "1");
    let memory = play.inside("box", "grep MemTotal /proc/meminfo | tr -cd 0-9");
    let mib = memory.parse::<u64>().unwrap() / 1024;
    assert!((700..=1024).contains(&mib), "{mib} MiB of 1024");
}

fn power(play: &Play, market: &Market) {
    let port = play.vm("box")["ssh"]["port"].clone();
    play.inside("box", "echo kept >file && sync");
    play.golem(&["vm", "stop", "box"]);
    assert_eq!(play.vm("box")["status"], "stopped");
    play.golem(&["vm", "start", "box"]);
    assert_eq!(play.vm("box")["ssh"]["port"], port);
    assert_eq!(play.inside("box", "cat file"), "kept");
    play.golem(&["vm", "restart", "box"]);
    assert_eq!(play.inside("box", "cat file"), "kept");
    assert_eq!(market.providers.len(), 1);
}

fn suspend(play: &Play) {
    if !play.can("suspend", "suspending and going on") {
        let refused = play.requestor.golem(&["vm", "suspend", "box"]);
        assert_ne!(refused.code, 0, "{refused}");
        return;
    }
    // It is there only for as long as the machine is not booted again.
    play.inside("box", "setsid sleep 1000000 >/dev/null 2>&1 </dev/null & sleep 0.2");
    play.golem(&["vm", "suspend", "box"]);
    let vm = play.vm("box");
    assert_eq!((&vm["status"], &vm["suspended"]), (&"stopped".into(), &true.into()));
    play.golem(&["vm", "resume", "box"]);
    let running = play.inside(
        "box",
        "for one in /proc/[0-9]*/cmdline; do tr '\\0' ' ' <$one 2>/dev/null; echo; done",
    );
    assert!(running.contains("sleep 1000000"), "it was booted again:\n{running}");
}

fn snapshots(play: &Play) {
    if !play.can("snapshots", "snapshots") {
        let refused = play.requestor.golem(&["vm", "snapshot", "create", "box", "before"]);
        assert_ne!(refused.code, 0, "{refused}");
        return;
    }
    let live = play.abilities.iter().any(|one| one == "live_snapshots");
    play.inside("box", "echo before >state && sync");
    if !live {
        play.golem(&["vm", "stop", "box"]);
    }
    play.golem(&["vm", "snapshot", "create", "box", "before"]);
    let listed = play.requestor.golem(&["vm", "snapshot", "list", "box", "--json"]).done();
    assert!(listed.stdout.contains("before"), "{listed}");
    if !live {
        play.golem(&["vm", "start", "box"]);
    }
    play.inside("box", "echo after >state && sync");
    play.golem(&["vm", "stop", "box"]);
    play.golem(&["vm", "snapshot", "restore", "box", "before", "--yes"]);
    if play.vm("box")["suspended"] == true {
        play.golem(&["vm", "resume", "box"])
    } else {
        play.golem(&["vm", "start", "box"])
    }
    assert_eq!(play.inside("box", "cat state"), "before");
    play.golem(&["vm", "snapshot", "delete", "box", "before"]);
}

fn clones(play: &Play, market: &Market) {
    if !play.can("clone", "clones") {
        let refused = play.requestor.golem(&["vm", "clone", "box", "twin"]);
        assert_ne!(refused.code, 0, "{refused}");
        return;
    }
    if !play.abilities.iter().any(|one| one == "live_clone") {
        play.golem(&["vm", "stop", "box"]);
    }
    play.golem(&["vm", "clone", "box", "twin"]);
    if play.vm("box")["status"] == "stopped" {
        play.golem(&["vm", "start", "box"]);
    }
    assert_eq!(play.inside("twin", "cat file"), "kept");
    assert_eq!(play.inside("twin", "hostname"), "twin");
    for what in ["cat /etc/machine-id", "cat /etc/ssh/ssh_host_ed25519_key.pub"] {
        assert_ne!(play.inside("twin", what), play.inside("box", what), "{what}");
    }
    play.golem(&["vm", "destroy", "twin", "--yes"]);
    assert_eq!(market.providers.len(), 1);
}

fn resize(play: &Play) {
    if !play.can("resize", "another size") {
        let refused = play.requestor.golem(&["vm", "resize", "box", "--cpu", "2"]);
        assert_ne!(refused.code, 0, "{refused}");
        return;
    }
    play.golem(&["vm", "resize", "box", "--cpu", "2"]);
    play.golem(&["vm", "restart", "box"]);
    assert_eq!(play.inside("box", "nproc"), "2");
}

fn provider_killed(play: &Play, market: &mut Market) {
    let mut session = play.requestor.session("box", &[]);
    session.echoes("before");
    market.provider().service().kill();
    session.echoes("killed");
    market.provider().start();
    session.echoes("started again");
    drop(session);
    assert_eq!(play.vm("box")["status"], "running");
    assert_eq!(play.inside("box", "cat file"), "kept");
    eventually("the provider offers again", || {
        play.requestor.golem(&["vm", "providers", "--json"]).stdout.contains(market.provider().id())
    });
}

fn expiry(play: &Play) {
    play.golem(&["vm", "create", "brief", "--for", "1m", "--on-expiry", "destroy"]);
    let gone = within(SLOW, || {
        let vms = play.requestor.vms();
        let left = vms.iter().any(|vm| vm["name"] == "brief" && vm["status"] != "destroyed");
        (!left).then_some(())
    });
    assert!(gone.is_some(), "a lease of a minute does not end: {:?}", play.requestor.vms());
}

/// The same as far as it can be had without a guest: by signed requests.
pub(crate) fn without_login() {
    use golem_vm_end_to_end::{Place, Provider, ProviderOptions, Renter};
    eprintln!("left out in memory: logins, and what is seen inside: there are no guests");
    let home = tempfile::tempdir().unwrap();
    let mut provider =
        Provider::in_memory("memory", &Place::new(home.path()), &ProviderOptions::default());
    provider.start();
    let renter = Renter::default();
    let ask = |provider: &Provider, method: &str, path: &str, body: Option<Value>| {
        renter.ask(provider, method, &format!("/api/v1/vms{path}"), body.as_ref(), None).unwrap()
    };
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFNVfYX7Cot+kMYwYSSojUSqZLyb5bMwoHJ6uu2IBQMW";
    let body = serde_json::json!({ "name": "box", "ssh_key": key, "resources": { "cpu": 1, "memory": 1, "storage": 10 } });
    let created = ask(&provider, "POST", "", Some(body));
    assert!((200..300).contains(&created.status), "{created:?}");
    let is = |provider: &Provider, status: &str| {
        eventually(status, || ask(provider, "GET", "/box", None).body["status"] == status);
    };
    is(&provider, "running");
    for (order, status) in [("stop", "stopped"), ("start", "running"), ("restart", "running")] {
        let done = ask(&provider, "POST", &format!("/box/{order}"), None);
        assert!((200..300).contains(&done.status), "{order}: {done:?}");
        is(&provider, status);
    }
    let abilities = ask(&provider, "GET", "/box", None).body["abilities"].clone();
    for (ability, order) in [("suspend", "suspend"), ("suspend", "resume")] {
        let done = ask(&provider, "POST", &format!("/box/{order}"), None);
        let can = abilities.as_array().is_some_and(|all| all.iter().any(|one| one == ability));
        if can {
            assert!((200..300).contains(&done.status), "{order}: {done:?}");
        } else {
            eprintln!("left out in memory: {order}: it does not say that it can ({ability})");
            assert_eq!(done.status, 409, "{order}: {done:?}");
        }
    }
    is(&provider, "running");
    provider.service().kill();
    provider.start();
    is(&provider, "running");
    let gone = ask(&provider, "DELETE", "/box", None);
    assert!((200..300).contains(&gone.status), "{gone:?}");
    eventually("it is gone", || ask(&provider, "GET", "/box", None).status == 404);
    provider.purge();
}
