//! More requestors at once than there is room for.

use golem_vm_end_to_end::{Market, ProviderOptions};

const REQUESTORS: usize = 6;
const ROOM: usize = 3;

#[test]
fn six_at_once_where_there_is_room_for_three() {
    let options = ProviderOptions::roomy().with("GOLEM_PROVIDER_OFFER_CPU", &ROOM.to_string());
    let mut market = Market::with_providers(&[options]);
    let requestors: Vec<_> = (0..REQUESTORS).map(|_| market.requestor()).collect();
    let create = ["vm", "create", "box", "--timeout", "150"];
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let all: Vec<_> =
            requestors.iter().map(|requestor| scope.spawn(|| requestor.golem(&create))).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let mut rented = Vec::new();
    for (requestor, outcome) in requestors.iter().zip(outcomes) {
        match outcome.code {
            0 => rented.push(requestor),
            // Asked too late, it finds nobody who has room.
            3 => drop(outcome.failed(3)),
            _ => drop(outcome.failed(5).says(&["1 vCPUs wanted, 0 free"])),
        }
    }
    assert_eq!((rented.len(), market.instances()), (ROOM, ROOM));
    market.provider().settles();
    for requestor in &rented {
        assert_eq!(requestor.in_vm("box", "hostname"), "box\n");
        requestor.golem(&["vm", "destroy", "box", "--yes"]).done();
    }
    market.provider().settles();
    let reserved = market.provider().status()["capacity"]["reserved"].clone();
    assert!(reserved.as_object().unwrap().values().all(|amount| amount == 0), "{reserved}");
    // What was refused then can be had now.
    market.wait_until_listed();
    requestors[0].rent("later");
    market.close();
}
