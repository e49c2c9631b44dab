//! Who owns a VM, and who does not.

use golem_vm_end_to_end::Market;

#[test]
fn two_requestors_use_one_name_and_see_only_their_own() {
    let mut market = Market::with_one_provider();
    let (anna, bert) = (market.requestor(), market.requestor());
    anna.rent("box");
    bert.rent("box");
    anna.in_vm("box", "echo anna >who");
    bert.in_vm("box", "echo bert >who");
    assert_eq!(anna.in_vm("box", "cat who"), "anna\n");
    assert_eq!(bert.in_vm("box", "cat who"), "bert\n");

    let (hers, his) = (anna.vm("box"), bert.vm("box"));
    assert_eq!((anna.vms().len(), bert.vms().len()), (1, 1));
    assert_ne!(hers["vm_id"], his["vm_id"]);
    assert_ne!(hers["ssh"]["port"], his["ssh"]["port"]);
    assert_ne!(hers["ssh"]["host_key"], his["ssh"]["host_key"]);

    // Hers is not his to take, not even by its id.
    let id = hers["vm_id"].as_str().unwrap();
    bert.golem(&["vm", "destroy", id, "--yes"]).failed(3);
    bert.golem(&["vm", "destroy", "box", "--yes"]).done();
    assert_eq!(anna.in_vm("box", "cat who"), "anna\n");
    assert_eq!(market.provider().containers().len(), 1);
    market.close();
}
