//! Instances that their provider's database does not know.

use golem_vm_end_to_end::{Market, Provider, ProviderOptions, eventually};
use serde_json::Value;

/// The database and its backups, as somebody would who begins anew.
fn lose_the_database(provider: &Provider) {
    let data = provider.data_dir();
    for name in ["state.db", "state.db-wal", "state.db-shm"] {
        let _ = std::fs::remove_file(data.join(name));
    }
    let _ = std::fs::remove_dir_all(data.join("backups"));
}

fn names(containers: &[Value]) -> Vec<String> {
    containers.iter().map(|one| one["Names"][0].as_str().unwrap()[1..].to_owned()).collect()
}

#[test]
fn an_instance_without_a_vm_is_told_of_and_removed_in_the_end() {
    let mut market = Market::with_providers(&[ProviderOptions::roomy(), ProviderOptions::roomy()]);
    let requestor = market.requestor();
    for (at, name) in [(0, "box"), (1, "neighbour")] {
        let provider = market.provider_at(at).id().to_owned();
        requestor.golem(&["vm", "create", name, "--provider-id", &provider]).done();
    }
    let instance = names(&market.provider().containers()).remove(0);
    let neighbours = names(&market.provider_at(1).containers());

    market.provider().service().kill();
    lose_the_database(market.provider());
    market.provider().start();
    let provider = market.provider();
    eventually("it is told of", || {
        let orphans = provider.status()["orphans"].clone();
        orphans[0]["instance"] == instance.as_str()
    });
    let doctor = provider.run(&["doctor"]).stdout;
    assert!(
        doctor.contains(&instance) && doctor.contains("GOLEM_PROVIDER_ORPHAN_GRACE"),
        "{doctor}"
    );
    assert!(provider.run(&["status"]).done().stdout.contains(&instance));
    assert_eq!(names(&provider.containers()), [instance.as_str()], "removed before its time");

    provider.service().kill();
    provider.set("GOLEM_PROVIDER_ORPHAN_GRACE", "0s");
    provider.start();
    eventually("it is removed", || provider.containers().is_empty());
    eventually("it is told of no more", || provider.status()["orphans"] == serde_json::json!([]));
    // The image's row was lost too.
    provider.run(&["image", "build", "debian-12"]).done();
    provider.settles();
    assert_eq!(names(&market.provider_at(1).containers()), neighbours, "another provider's");
    market.provider_at(1).settles();
    market.close();
}
