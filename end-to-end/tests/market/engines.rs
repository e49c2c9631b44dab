//! Which engine is used, and what happens when it stops.

use std::os::unix::fs::PermissionsExt as _;

use golem_vm_end_to_end::{Engine, Market, Place, ProviderOptions, eventually};
use rustix::process::Signal;

#[test]
fn a_second_socket_in_docker_host_is_obeyed() {
    let Some((_private, market)) = Market::on_an_engine_of_its_own(&ProviderOptions::default())
    else {
        return;
    };
    let requestor = market.requestor();
    requestor.rent("box");
    assert_eq!(requestor.in_vm("box", "hostname"), "box\n");
    let provider = market.providers[0].id();
    assert_eq!(market.instances(), 1);
    assert!(Engine::shared().traces_of(provider).is_empty(), "something is on the other engine");
    market.close();
}

#[test]
fn an_engine_that_hangs_or_dies_takes_no_machine_with_it() {
    let Some((private, mut market)) = Market::on_an_engine_of_its_own(&ProviderOptions::default())
    else {
        return;
    };
    let requestor = market.requestor();
    requestor.rent("box");
    requestor.in_vm("box", "echo kept >file");

    // Hung: the VM goes on, is not taken for gone, and nobody waits for ever.
    private.signal(Signal::STOP);
    assert_eq!(requestor.in_vm("box", "cat file"), "kept\n");
    assert_eq!(requestor.vms().len(), 1);
    let refused = requestor.golem(&["vm", "create", "second"]);
    assert!(refused.code != 0, "{refused}");
    private.signal(Signal::CONT);
    eventually("the VM is known to run", || requestor.vm("box")["status"] == "running");

    // Until what was begun is removed, its room is taken, and nothing may be advertised.
    market.wait_until_listed();

    // Killed and started again: containers have ended with it, and come back.
    private.signal(Signal::KILL);
    requestor.golem(&["vm", "create", "third"]).failed(4).says(&["Docker Engine"]);
    assert_eq!(requestor.vms().iter().filter(|vm| vm["name"] == "box").count(), 1);
    private.start_again();
    eventually("the VM can be used again", || {
        requestor.golem(&["vm", "start", "box"]).code == 0
            && requestor.golem(&["vm", "ssh", "box", "--", "cat file"]).stdout == "kept\n"
    });
    assert_eq!(market.instances(), 1, "what was refused has left something");
    market.provider().run(&["doctor"]).done();
    market.close();
}

#[test]
fn no_docker_program_is_ever_started() {
    let programs = tempfile::tempdir().unwrap();
    let record = programs.path().join("called");
    for name in ["docker", "podman", "nerdctl", "ctr"] {
        let path = programs.path().join(name);
        std::fs::write(&path, format!("#!/bin/sh\necho \"$0 $*\" >>{}\n", record.display()))
            .unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let home = tempfile::tempdir().unwrap();
    let place = Place::new(home.path()).with_programs_of(programs.path());
    let market = Market::in_place(&place, &Engine::shared(), &[ProviderOptions::default()]);
    let requestor = market.requestor();
    requestor.rent("box");
    requestor.in_vm("box", "true");
    for action in ["stop", "start", "restart", "info", "stats"] {
        requestor.golem(&["vm", action, "box"]).done();
    }
    market.providers[0].run(&["doctor"]).done();
    requestor.golem(&["vm", "destroy", "box", "--yes"]).done();
    market.close();
    assert!(!record.exists(), "{}", std::fs::read_to_string(&record).unwrap_or_default());
}
