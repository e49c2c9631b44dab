//! SSH keys of a VM that exists: added, removed, and applied whatever the guest does to the files.

use std::path::{Path, PathBuf};

use golem_vm_end_to_end::{Market, Requestor};

#[test]
fn keys_come_and_go_in_a_real_vm() {
    let mut market = Market::with_one_provider();
    let requestor = market.requestor();
    let [one, two, three] = ["one", "two", "three"].map(|name| make(&requestor, name));
    let path = |key: &Path| key.to_str().unwrap().to_owned();
    requestor.golem(&["vm", "create", "box", "--ssh-key", &path(&one)]).done();
    requestor.in_vm("box", "echo '# mine' > ~/.ssh/authorized_keys");

    requestor.golem(&["vm", "keys", "add", "box", &path(&two)]).done();
    assert!(lets_in(&requestor, "ubuntu", &two) && lets_in(&requestor, "root", &two));
    assert!(!lets_in(&requestor, "ubuntu", &three));
    assert_eq!(requestor.in_vm("box", "cat ~/.ssh/authorized_keys"), "# mine\n");

    // A key that is removed opens nothing; a session that is open stays.
    let mut session = requestor.session("box", &[]);
    session.echoes("before");
    requestor.golem(&["vm", "keys", "remove", "box", &path(&one)]).done();
    assert!(!lets_in(&requestor, "ubuntu", &one) && !lets_in(&requestor, "root", &one));
    session.echoes("after");
    drop(session);
    requestor.golem(&["vm", "keys", "remove", "box", &path(&two)]).failed(5).says(&["--force"]);

    // The guest's root puts links in the way: into its own files, and to a folder of the host.
    let host = tempfile::tempdir().unwrap();
    let there = host.path().to_str().unwrap();
    let spoil = format!(
        "sudo rm -r /etc/ssh/golem_authorized_keys && sudo mkdir -p {there} && \
         sudo ln -s {there} /etc/ssh/golem_authorized_keys"
    );
    as_key(&requestor, "ubuntu", &two, &spoil);
    requestor.golem(&["vm", "keys", "add", "box", &path(&three)]).done();
    assert!(lets_in(&requestor, "ubuntu", &three));
    assert_eq!(std::fs::read_dir(host.path()).unwrap().count(), 0, "nothing on the host");
    let spoil = "echo safe > ~/mine && \
                 sudo ln -sf /home/ubuntu/mine /etc/ssh/golem_authorized_keys/ubuntu";
    as_key(&requestor, "root", &three, &spoil.replace("sudo ", "").replace('~', "/home/ubuntu"));
    requestor.golem(&["vm", "keys", "add", "box", &path(&one)]).done();
    assert!(lets_in(&requestor, "ubuntu", &one));
    assert_eq!(requestor.in_vm("box", "cat /home/ubuntu/mine"), "safe\n");

    // What is changed while it is down counts when it is up.
    requestor.golem(&["vm", "stop", "box"]).done();
    requestor.golem(&["vm", "keys", "remove", "box", &path(&two)]).done();
    market.provider().service().kill();
    market.provider().start();
    requestor.golem(&["vm", "start", "box"]).done();
    assert!(lets_in(&requestor, "ubuntu", &one) && !lets_in(&requestor, "ubuntu", &two));
    market.close();
}

fn make(requestor: &Requestor, name: &str) -> PathBuf {
    let path = requestor.home().join(name);
    let line = format!("ssh-keygen -q -t ed25519 -N '' -C {name} -f {}", path.display());
    requestor.shell(&line).done();
    path
}

fn lets_in(requestor: &Requestor, user: &str, key: &Path) -> bool {
    ssh(requestor, user, key, "true").code == 0
}

fn as_key(requestor: &Requestor, user: &str, key: &Path, command: &str) {
    ssh(requestor, user, key, command).done();
}

/// golem's own printed command, with another key and another user.
fn ssh(
    requestor: &Requestor,
    user: &str,
    key: &Path,
    command: &str,
) -> golem_vm_end_to_end::Outcome {
    let vm = requestor.vm("box");
    let printed = vm["ssh"]["command"].as_str().unwrap();
    let known = requestor.home().join("one");
    let line = printed
        .replace(&format!("-i {} ", known.display()), &format!("-i {} ", key.display()))
        .replace(" ubuntu@", &format!(" {user}@"));
    requestor.shell(&format!("{line} '{command}' </dev/null"))
}
