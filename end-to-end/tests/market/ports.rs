//! What answers at a port has to be the provider that offers it.

use std::net::TcpListener;

use golem_vm_end_to_end::{Market, PortRange, ProviderOptions, eventually};
use serde_json::Value;

/// A provider that listens on another address of this machine than the one it advertises.
fn elsewhere(api: u16, range: PortRange) -> ProviderOptions {
    ProviderOptions::default()
        .with("GOLEM_PROVIDER_HOST", "127.0.0.2")
        .with("GOLEM_PROVIDER_PUBLIC_IP", "127.0.0.1")
        .with("GOLEM_PROVIDER_PORT", &api.to_string())
        .with("GOLEM_PROVIDER_PORT_RANGE_START", &range.first.to_string())
        .with("GOLEM_PROVIDER_PORT_RANGE_END", &range.end().to_string())
}

#[test]
fn neither_a_foreign_program_nor_another_provider_counts_as_ones_own_port() {
    let mut market = Market::with_one_provider();
    let checked = |market: &mut Market| {
        market.provider().status()["ports"]["checkers"][0]["attested_until"].is_string()
    };
    eventually("the first one's ports are checked", || checked(&mut market));
    let honest = market.provider().status();
    let by = &honest["ports"]["checkers"][0];
    assert_eq!(by["reached"], by["asked"], "{honest}");
    assert!(by["attested_until"].is_string(), "{honest}");

    // At the advertised address another provider answers, with the same ports.
    let number = |value: &Value| u16::try_from(value.as_u64().unwrap()).unwrap();
    let first = number(&honest["ports"]["first"]);
    let count = number(&honest["ports"]["last"]) - first + 1;
    let api = market.provider().address().rsplit(':').next().unwrap().parse().unwrap();
    market.add_provider(&elsewhere(api, PortRange { first, count }));
    claims_nothing(&market, 1, "another provider answers there");

    // A program that only listens.
    let range = PortRange::find(3);
    let held: Vec<_> = range.ports().map(|port| TcpListener::bind(("127.0.0.1", port))).collect();
    assert!(held.iter().all(Result::is_ok));
    let foreign = PortRange { first: range.first + 1, count: 2 };
    market.add_provider(&elsewhere(range.first, foreign));
    claims_nothing(&market, 2, "something else answers there");

    // The honest one is listed with the checker's word, and neither of the others is listed.
    let shown = market.requestor().golem(&["vm", "providers", "--json"]).done();
    let listed: Value = serde_json::from_str(&shown.stdout).unwrap();
    let listed = listed["providers"].as_array().unwrap();
    assert_eq!(listed.len(), 1, "{shown}");
    assert_eq!(listed[0]["ports"]["verified"], true, "{shown}");
    assert_eq!(listed[0]["ports"]["by"][0]["checker"], by["id"], "{shown}");
    market.close();
}

fn claims_nothing(market: &Market, place: usize, why: &str) {
    let provider = market.provider_at(place);
    // It serves before it knows what can be reached.
    eventually("its ports are checked", || {
        provider.status()["ports"]["problems"].to_string().contains(why)
    });
    let status = provider.status();
    let ports = &status["ports"];
    assert_eq!(
        (&ports["usable"], &ports["checkers"][0]["reached"]),
        (&0.into(), &0.into()),
        "{status}"
    );
    let problems = ports["problems"].to_string();
    assert!(problems.contains(why), "{problems}");
}
