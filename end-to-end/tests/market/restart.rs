//! Processes of the provider end and come back while somebody is logged in.

use golem_vm_end_to_end::{Market, eventually};

#[test]
fn sessions_outlive_the_provider() {
    let mut market = Market::with_one_provider();
    let requestor = market.requestor();
    requestor.rent("box");
    let port = requestor.vm("box")["ssh"]["port"].clone();
    let mut openssh = requestor.session("box", &[]);
    let mut builtin = requestor.session("box", &["--builtin"]);
    openssh.echoes("before");
    builtin.echoes("before");
    let forwarder = market.provider().forwarder().unwrap();

    market.provider().service().stop();
    openssh.echoes("stopped");
    // Nobody is needed for logging in, either.
    assert_eq!(requestor.in_vm("box", "hostname"), "box\n");
    market.provider().start();
    openssh.echoes("started");

    market.provider().service().kill();
    builtin.echoes("killed");
    market.provider().start();
    openssh.echoes("started again");
    builtin.echoes("started again");

    assert_eq!(market.provider().forwarder(), Some(forwarder), "the forwarder was replaced");
    let vm = requestor.vm("box");
    assert_eq!(
        (&vm["status"], &vm["stale"], &vm["ssh"]["port"]),
        (&"running".into(), &false.into(), &port)
    );
    assert_eq!(requestor.in_vm("box", "hostname"), "box\n");
    assert_eq!(market.instances(), 1);
    market.provider().settles();
    market.close();
}

#[test]
fn a_killed_forwarder_comes_back_on_the_same_port() {
    let mut market = Market::with_one_provider();
    let requestor = market.requestor();
    requestor.rent("box");
    let port = requestor.vm("box")["ssh"]["port"].clone();
    let mut session = requestor.session("box", &[]);
    session.echoes("before");

    market.provider().kill_forwarder();
    assert!(session.has_ended(), "a session without a forwarder");
    eventually("the port leads to the VM again", || {
        requestor.golem(&["vm", "ssh", "box", "--", "true"]).code == 0
    });
    assert_eq!(requestor.vm("box")["ssh"]["port"], port);
    market.provider().settles();
    market.close();
}

#[test]
fn both_killed_at_once_come_back_too() {
    let mut market = Market::with_one_provider();
    let requestor = market.requestor();
    requestor.rent("box");
    market.provider().service().kill();
    market.provider().kill_forwarder();
    market.provider().start();
    eventually("the port leads to the VM again", || {
        requestor.golem(&["vm", "ssh", "box", "--", "true"]).code == 0
    });
    requestor.rent("second");
    requestor.golem(&["vm", "stop", "second"]).done();
    requestor.rent("third");
    requestor.golem(&["vm", "destroy", "third", "--yes"]).done();
    market.provider().settles();
    market.close();
}
