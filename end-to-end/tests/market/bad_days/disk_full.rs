//! The disk with the provider's database is full, or the one with the VMs' data.

use golem_vm_end_to_end::{Market, PrivateEngine, ProviderOptions, SmallDisk, eventually};

use super::answers;

#[test]
fn the_disk_with_the_database() {
    let Some(disk) = SmallDisk::of_mib(16) else { return };
    let data_dir = disk.path().join("data");
    let options =
        ProviderOptions::default().with("GOLEM_PROVIDER_DATA_DIR", &data_dir.display().to_string());
    let mut market = Market::with_providers(&[options]);
    let requestor = market.requestor();
    requestor.rent("box");
    requestor.rent("other");
    let mut session = requestor.session("box", &[]);
    let id = market.provider().id().to_owned();
    let create = ["vm", "create", "second", "--provider-id", &id];

    disk.fill();
    session.echoes("full");
    answers(&market, &requestor, "box");
    assert_eq!(requestor.in_vm("box", "hostname"), "box\n");
    requestor.golem(&create).failed(4).says(&["its disk is full", "Nothing was changed"]);
    requestor.golem(&["vm", "stop", "other"]).failed(4).says(&["its disk is full"]);
    let refused = requestor.golem(&["vm", "destroy", "other", "--yes"]);
    assert_ne!(refused.code, 0, "it can't have been written down: {refused}");
    assert_eq!(market.instances(), 2, "what could not be written down was done");
    let log = market.provider().service().log();
    assert!(log.contains("the disk is full; make room and try again"), "{log}");

    // Over a restart, in any way.
    market.provider().service().kill();
    market.provider().start();
    answers(&market, &requestor, "box");
    session.echoes("started on a full disk");
    market.provider().service().stop();

    disk.empty();
    market.provider().start();
    market.wait_until_listed();
    disk.fill();
    requestor.golem(&create).failed(4).says(&["its disk is full"]);
    disk.empty();
    // By itself.
    market.wait_until_listed();
    requestor.golem(&create).done();
    assert_eq!(requestor.in_vm("second", "hostname"), "second\n");
    session.echoes("there is room");
    requestor.golem(&["vm", "list"]).done();
    eventually("all VMs are what they were", || {
        let status = |name: &str| {
            let vms = requestor.vms();
            vms.iter().find(|vm| vm["name"] == name).map(|vm| vm["status"].clone())
        };
        // The destroy that was refused may be made up for by the list.
        status("box") == Some("running".into())
            && [None, Some("running".into())].contains(&status("other"))
            && market.instances() == requestor.vms().len()
    });
    market.close();
}

#[test]
fn the_disk_with_the_data_of_the_vms() {
    let options = ProviderOptions::default()
        .with("GOLEM_PROVIDER_OVERCOMMIT_STORAGE", "64")
        .with("GOLEM_PROVIDER_DISK_RESERVE_GB", "0");
    let Some(engine) = PrivateEngine::on_a_small_disk() else { return };
    let mut market = Market::on_this_engine(&engine, &options);
    let requestor = market.requestor();
    requestor.rent("box");
    let mut session = requestor.session("box", &[]);
    session.echoes("before");
    let id = market.provider().id().to_owned();
    let create = ["vm", "create", "second", "--provider-id", &id];

    engine.fill_disk();
    session.echoes("full");
    answers(&market, &requestor, "box");
    let refused = requestor.golem(&create);
    let code = refused.code;
    assert_ne!(code, 0, "{refused}");
    refused.failed(code).says(&["no space left on"]);
    assert_eq!(requestor.vms().len(), 1);
    eventually("nothing is left of it", || market.instances() == 1);
    assert_eq!(requestor.vm("box")["status"], "running");

    engine.empty_disk();
    session.echoes("there is room");
    market.wait_until_listed();
    requestor.golem(&create).done();
    assert_eq!(requestor.in_vm("second", "hostname"), "second\n");
    assert_eq!(requestor.in_vm("box", "hostname"), "box\n");
    market.close();
    drop(engine);
}
