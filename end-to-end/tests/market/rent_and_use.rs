//! From nothing to a command in a rented machine, and back to nothing.

use golem_vm_end_to_end::{Market, Outcome};

#[test]
fn a_machine_is_rented_used_and_given_back() {
    let mut market = Market::with_one_provider();
    let requestor = market.requestor();
    let created = requestor.rent("box");
    assert!(created.stdout.contains("ssh "), "the ssh command is not printed: {created}");

    let vm = requestor.vm("box");
    assert_eq!(vm["status"], "running");
    assert_eq!(vm["provider_id"], market.provider().id());
    assert_eq!(vm["isolation"], "container");
    let port = u16::try_from(vm["ssh"]["port"].as_u64().unwrap()).unwrap();
    assert!(market.provider().ports().ports().any(|offered| offered == port));

    // By golem, with either client: output, input and exit code pass through.
    for options in [&["box"][..], &["--builtin", "box"]] {
        let mut arguments = vec!["vm", "ssh"];
        arguments.extend(options);
        arguments.extend(["--", "read line; echo \"$line, $(hostname)\"; echo oh >&2; exit 7"]);
        let said = Outcome::of(&mut requestor.command(&arguments), b"hello\n");
        assert_eq!((said.stdout.as_str(), said.code), ("hello, box\n", 7), "{said}");
        assert!(said.stderr.contains("oh"), "{said}");
    }
    // By hand, with the printed command.
    let by_hand = requestor.printed_ssh("box", "whoami; sudo whoami").done();
    assert_eq!(by_hand.stdout, "ubuntu\nroot\n");

    // What is written stays over a stop.
    requestor.in_vm("box", "echo kept >file && sync");
    requestor.golem(&["vm", "stop", "box"]).done();
    assert_eq!(requestor.vm("box")["status"], "stopped");
    requestor.golem(&["vm", "start", "box"]).done();
    assert_eq!(requestor.vm("box")["ssh"]["port"], port);
    assert_eq!(requestor.in_vm("box", "cat file"), "kept\n");

    requestor.golem(&["vm", "destroy", "box", "--yes"]).done();
    assert!(requestor.vms().is_empty());
    assert!(market.provider().containers().is_empty());
    assert_eq!(market.provider().status()["vms"], serde_json::json!([]));
    market.close();
}

#[test]
fn packages_can_be_installed() {
    let market = Market::with_one_provider();
    let requestor = market.requestor();
    // From this host, so that a machine without a network is told from a VM without one.
    let mirror = "http://deb.debian.org/debian/dists/bookworm/InRelease";
    if requestor.shell(&format!("curl -sf --max-time 20 --head -o /dev/null {mirror}")).code != 0 {
        eprintln!("skipped: {mirror} can't be reached from this machine");
        return;
    }
    requestor.rent("box");
    requestor.in_vm("box", "sudo apt-get -q update && sudo apt-get -q -y install nano >/dev/null");
    assert!(requestor.in_vm("box", "command -v nano").contains("nano"));
    market.close();
}
