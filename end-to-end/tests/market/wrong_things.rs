//! Each wrong thing gives one sentence that says what to do, and a documented exit code; none leaks.

use std::net::TcpListener;

use golem_vm_end_to_end::{Market, ProviderOptions, Requestor};

/// Nothing exists and nothing is remembered.
fn nothing_is_left(market: &Market, requestor: &Requestor) {
    assert_eq!(market.instances(), 0);
    assert!(requestor.vms().is_empty());
    for provider in &market.providers {
        let status = provider.status();
        assert_eq!(status["vms"], serde_json::json!([]));
        assert_eq!(status["capacity"]["reserved"]["memory_mib"], 0, "{status}");
        assert_eq!(status["ports"]["in_use"], 0, "{status}");
    }
}

#[test]
fn what_is_asked_for_wrongly_is_told() {
    let market = Market::with_one_provider();
    let requestor = market.requestor();
    let create = |arguments: &[&str]| requestor.golem(&[&["vm", "create"], arguments].concat());

    create(&["box", "--ssh-key", "/no/such/key"]).failed(2).says(&["/no/such/key"]);
    create(&["NO!"]).failed(2).says(&["NO!"]);
    create(&["box", "--cpu", "3"]).failed(2).says(&["3"]);
    create(&["box", "--cpu", "16", "--memory", "64"]).failed(3).says(&["hint:"]);
    create(&["box", "--country", "SE"]).failed(3).says(&["hint:"]);
    create(&["box", "--provider-id", "nobody"]).failed(3).says(&["nobody"]);
    create(&["box", "--image", "windows-3.11"]).failed(3).says(&["windows-3.11", "hint:"]);
    requestor.golem(&["vm", "ssh", "box"]).failed(3).says(&["box", "hint:"]);
    requestor.golem(&["vm", "destroy", "box", "--yes"]).failed(3).says(&["box", "hint:"]);
    nothing_is_left(&market, &requestor);

    requestor.rent("box");
    create(&["box"]).failed(5).says(&["box", "hint:"]);
    assert_eq!(market.instances(), 1);
    requestor.golem(&["vm", "destroy", "box"]).failed(2).says(&["--yes"]);
    requestor.golem(&["vm", "destroy", "box", "--yes"]).done();
    nothing_is_left(&market, &requestor);
    market.close();
}

#[test]
fn who_is_down_is_told() {
    let mut market = Market::with_one_provider();
    let requestor = market.requestor();
    requestor.rent("box");
    let id = market.provider().id().to_owned();

    market.discovery.kill();
    requestor.golem(&["vm", "create", "second"]).failed(4).says(&["discovery", "127.0.0.1"]);
    requestor.golem(&["vm", "providers"]).failed(4).says(&["discovery", "127.0.0.1"]);
    // Nothing central is in the path of a running VM.
    assert_eq!(requestor.in_vm("box", "hostname"), "box\n");

    market.provider().service().kill();
    requestor.golem(&["vm", "stop", "box"]).failed(4).says(&["box"]);
    let vm = requestor.vm("box");
    assert_eq!((&vm["stale"], &vm["provider_id"]), (&true.into(), &id.into()));
    let table = requestor.golem(&["vm", "list"]).done();
    assert!(table.stdout.contains("stale"), "{table}");

    let unset = requestor.golem(&["--discovery-url", "", "vm", "providers"]);
    assert_eq!(unset.code, 2, "{unset}");
    market.provider().start();
    market.close();
}

#[test]
fn a_full_provider_says_so() {
    let small = ProviderOptions::default()
        .with("GOLEM_PROVIDER_OFFER_CPU", "1")
        .with("GOLEM_PROVIDER_OVERCOMMIT_CPU", "1")
        .with("GOLEM_PROVIDER_MAX_VMS", "1");
    let market = Market::with_providers(&[small]);
    let requestor = market.requestor();
    requestor.rent("box");
    let other = market.requestor();
    let id = market.providers[0].id();
    let refused = other.golem(&["vm", "create", "box", "--provider-id", id]);
    assert!([3, 5].contains(&refused.code), "{refused}");
    let code = refused.code;
    refused.failed(code);
    assert!(other.vms().is_empty());
    assert_eq!(market.instances(), 1);
    market.close();
}

#[test]
fn a_port_that_another_program_has_is_told_and_not_used() {
    let mut market = Market::with_one_provider();
    market.provider().service().stop();
    let api = market.provider().run(&["config", "--json"]).done().json();
    assert!(api.is_object() || api.is_array());

    // The API's port.
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = held.local_addr().unwrap().port().to_string();
    market.provider().set("GOLEM_PROVIDER_PORT", &port);
    let reason = market.provider().try_start().unwrap_err();
    assert!(reason.contains(&port) && reason.contains("another program"), "{reason}");
    drop(held);

    // All of the VMs' ports but one.
    market.provider().kill_forwarder();
    let range = market.provider().ports();
    let held: Vec<_> = range
        .ports()
        .skip(1)
        .map(|port| {
            golem_vm_end_to_end::within(std::time::Duration::from_secs(10), || {
                TcpListener::bind(("127.0.0.1", port)).ok()
            })
            .unwrap()
        })
        .collect();
    market.provider().set("GOLEM_PROVIDER_PORT", "0");
    market.provider().start();
    market.wait_until_listed();
    let requestor = market.requestor();
    requestor.rent("box");
    assert_eq!(requestor.vm("box")["ssh"]["port"], range.first);
    let other = market.requestor();
    let id = market.provider().id().to_owned();
    let refused = other.golem(&["vm", "create", "second", "--provider-id", &id]);
    assert!([3, 5].contains(&refused.code), "{refused}");
    assert_eq!(market.instances(), 1);
    drop(held);
    market.close();
}
