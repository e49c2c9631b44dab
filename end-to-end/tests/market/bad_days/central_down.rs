//! Discovery and the port checker are down for so long that everything they knew is out of date.

use golem_vm_end_to_end::{Market, ProviderOptions, eventually};

use super::answers;

#[test]
fn discovery_and_checkers_are_down_and_come_back() {
    // Documents are valid for a few intervals only: a long time is short here.
    let options = ProviderOptions::default().with("GOLEM_PROVIDER_ADVERTISEMENT_INTERVAL", "10");
    let mut market = Market::with_providers(&[options]);
    let requestor = market.requestor();
    requestor.rent("box");
    requestor.rent("other");
    let mut session = requestor.session("box", &[]);
    session.echoes("before");

    market.discovery.kill();
    market.checker.kill();
    for command in [&["vm", "stop", "other"][..], &["vm", "start", "other"], &["vm", "info", "box"]]
    {
        requestor.golem(command).done();
    }
    answers(&market, &requestor, "box");
    session.echoes("nobody lists");
    assert_eq!(requestor.in_vm("box", "hostname"), "box\n");
    // Whoever is new is told who is missing.
    let create = ["vm", "create", "third"];
    requestor.golem(&create).failed(4).says(&["discovery", "127.0.0.1"]);
    eventually("the provider says what is missing", || {
        let said = market.provider().run(&["status"]).done().stdout;
        said.contains(market.discovery.address()) && said.contains("can't reach")
    });
    // A start without them is a start: the VMs are there, the ports lead to them.
    market.provider().service().kill();
    market.provider().start();
    answers(&market, &requestor, "box");
    session.echoes("started without them");
    assert_eq!(requestor.in_vm("other", "hostname"), "other\n");
    requestor.golem(&["vm", "destroy", "other", "--yes"]).done();

    market.start_discovery_again();
    market.start_checker_again();
    market.wait_until_listed();
    // Its ports have to be proven once more before it hands one out.
    eventually("it rents out again", || requestor.golem(&create).code == 0);
    assert_eq!(requestor.in_vm("third", "hostname"), "third\n");
    session.echoes("after");
    market.close();
}
