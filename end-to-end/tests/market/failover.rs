//! Two providers on one host and one engine, and one of them breaks.

use golem_vm_end_to_end::{Market, ProviderOptions, eventually};

/// The first is the cheaper one, so that it is always asked first.
fn two_providers() -> Market {
    let cheap = ProviderOptions::default().with("GOLEM_PROVIDER_PRICE_USD_PER_CORE_MONTH", "1");
    Market::with_providers(&[cheap, ProviderOptions::default()])
}

#[test]
fn two_providers_work_side_by_side() {
    let market = two_providers();
    let requestor = market.requestor();
    for (number, provider) in market.providers.iter().enumerate() {
        let name = format!("box-{number}");
        requestor.golem(&["vm", "create", &name, "--provider-id", provider.id()]).done();
        assert_eq!(requestor.vm(&name)["provider_id"], provider.id());
        assert_eq!(requestor.in_vm(&name, "hostname"), format!("{name}\n"));
        assert_eq!(provider.containers().len(), 1);
    }
    market.close();
}

#[test]
fn a_provider_that_is_gone_is_passed_over() {
    let mut market = two_providers();
    market.provider().service().kill();
    ends_on_the_other(&market);
    market.provider().start();
    market.close();
}

#[test]
fn a_provider_that_hangs_is_passed_over_and_makes_nothing_later() {
    let mut market = two_providers();
    market.provider().service().freeze();
    let requestor = ends_on_the_other(&market);
    market.provider().service().thaw();
    // What was asked of it and given up must not come true behind the requestor's back.
    eventually("the provider that woke up has nothing", || {
        assert_eq!(requestor.vms().len(), 1);
        market.providers[0].containers().is_empty()
    });
    assert_eq!(market.instances(), 1);
    market.close();
}

#[test]
fn a_provider_without_its_engine_is_passed_over() {
    let mut market = two_providers();
    let nowhere = market.directory().join("no-engine.sock");
    market.provider().service().kill();
    let engine = market.provider().engine().socket().display().to_string();
    market.provider().use_docker_host(&format!("unix://{}", nowhere.display()));
    // Whether it refuses to start or starts and can make nothing, it is in nobody's way.
    let started = market.provider().try_start();
    if let Err(reason) = &started {
        assert!(reason.contains("no-engine.sock"), "the reason does not name the engine: {reason}");
    }
    ends_on_the_other(&market);
    if started.is_ok() {
        market.provider().service().kill();
    }
    market.provider().use_docker_host(&format!("unix://{engine}"));
    market.provider().try_start().unwrap();
    market.close();
}

fn ends_on_the_other(market: &Market) -> golem_vm_end_to_end::Requestor {
    let requestor = market.requestor();
    requestor.rent("box");
    assert_eq!(requestor.vm("box")["provider_id"], market.providers[1].id());
    assert_eq!(requestor.in_vm("box", "hostname"), "box\n");
    assert_eq!(market.instances(), 1, "not exactly one VM in the world");
    requestor
}
