//! A lease ends while nobody is there to see it.

use golem_vm_end_to_end::{Market, Outcome, eventually};

#[test]
fn it_is_stopped_after_the_start_and_not_destroyed_without_its_grace() {
    let mut market = Market::with_one_provider();
    let requestor = market.requestor();
    requestor.golem(&["vm", "create", "box", "--for", "30s"]).done();
    requestor.golem(&["vm", "create", "gone", "--for", "30s", "--on-expiry", "destroy"]).done();
    requestor.golem(&["vm", "create", "stays", "--for", "1h"]).done();
    requestor.in_vm("box", "echo kept >file; sync");
    let mut session = requestor.session("stays", &[]);
    market.provider().service().kill();

    // Its lease is over, and nobody ends it.
    let mut sleep = market.place().command("sleep");
    Outcome::of(sleep.arg("31"), b"").done();
    assert_eq!(market.instances(), 3);
    market.provider().start();
    eventually("the one is stopped, the other destroyed", || {
        let vms = requestor.vms();
        let status = |name: &str| {
            vms.iter().find(|vm| vm["name"] == name).map(|vm| vm["status"].as_str().unwrap())
        };
        status("box") == Some("stopped") && status("gone").is_none() && market.instances() == 2
    });
    session.echoes("stays");
    assert_eq!(requestor.vm("stays")["status"], "running");
    requestor.golem(&["vm", "start", "box"]).failed(5).says(&["undelete"]);
    requestor.golem(&["vm", "undelete", "box", "--for", "1h"]).done();
    requestor.golem(&["vm", "start", "box"]).done();
    assert_eq!(requestor.in_vm("box", "cat file"), "kept\n");
    market.close();
}
