//! `golem` is killed in the middle of a create.

use std::process::Stdio;
use std::time::Duration;

use golem_vm_end_to_end::{Market, Requestor, eventually, within};

#[test]
fn the_same_create_again_gives_the_same_machine() {
    let market = Market::with_one_provider();
    // At several moments: before it is asked for, while it is made, while it is logged in to.
    for (number, after) in
        [30, 120, 300, 700, 1200].map(Duration::from_millis).into_iter().enumerate()
    {
        let requestor = market.requestor();
        kill_in_create(&requestor, after);
        let listed = requestor.vms();
        assert!(listed.len() <= 1, "{listed:?}");
        eventually("what is listed is what there is", || truth_is_listed(&market, &requestor));
        let begun = requestor.vms().first().cloned();

        // On a fast machine it may have come to its end before the kill.
        if begun.as_ref().is_none_or(|vm| vm["confirmed"] == false) {
            requestor.rent("box");
        }
        let id = begun.map(|vm| vm["vm_id"].clone()).filter(|id| !id.is_null());
        if let Some(id) = id {
            assert_eq!(requestor.vm("box")["vm_id"], id, "another machine, killed after {after:?}");
        }
        assert_eq!(requestor.in_vm("box", "hostname"), "box\n");
        assert_eq!(market.instances(), 1, "number {number}, killed after {after:?}");
        requestor.golem(&["vm", "destroy", "box", "--yes"]).done();
        assert_eq!(market.instances(), 0);
    }
    market.close();
}

#[test]
fn a_machine_whose_create_was_killed_can_be_destroyed() {
    let market = Market::with_one_provider();
    let requestor = market.requestor();
    let mut golem = requestor.command(&["vm", "create", "box"]);
    let mut golem =
        golem.stdout(Stdio::null()).stderr(Stdio::null()).stdin(Stdio::null()).spawn().unwrap();
    within(Duration::from_secs(30), || (market.instances() == 1).then_some(())).unwrap();
    golem.kill().unwrap();
    golem.wait().unwrap();
    requestor.golem(&["vm", "destroy", "box", "--yes"]).done();
    assert!(requestor.vms().is_empty());
    eventually("nothing is left", || market.instances() == 0);
    market.close();
}

fn kill_in_create(requestor: &Requestor, after: Duration) {
    let mut command = requestor.command(&["vm", "create", "box"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut golem = command.spawn().unwrap();
    std::thread::sleep(after);
    golem.kill().unwrap();
    golem.wait().unwrap();
}

/// Whether the VM that is listed exists, and none that is not listed.
fn truth_is_listed(market: &Market, requestor: &Requestor) -> bool {
    let listed = requestor.vms();
    let instances = market.instances();
    match listed.first() {
        None => instances == 0,
        // Meant and never asked for; it stays listed while the request may still be on its way.
        Some(vm) if vm["vm_id"].is_null() => vm["status"] == "creating" && instances == 0,
        Some(vm) => vm["status"] == "running" && instances == 1,
    }
}
