//! Who floods, who pretends to be elsewhere, and who is kept from the others' entries.

use golem_vm_node::client::{Call, Reply};
use golem_vm_protocol::ErrorCode;
use golem_vm_protocol::advertisement::{Advertisement, Endpoint};
use golem_vm_protocol::document::Envelope;
use golem_vm_protocol::route;

use crate::market::{Market, key, problem};

impl Market {
    /// Publishes as `seed` from a client that a proxy on this machine names.
    async fn publish_as(&self, seed: u8, client: &str, endpoint: &str) -> Reply {
        let sequence = u64::from(seed) + 1;
        let endpoints = vec![Endpoint::Direct {
            api: format!("{endpoint}:7466"),
            ssh_host: endpoint.to_owned(),
        }];
        let document = Advertisement { endpoints, ..self.advertisement(&key(seed), sequence) };
        let envelope = Envelope::seal(&document, &key(seed)).unwrap();
        let call = Call::post(route::ADVERTISEMENTS, &envelope).unwrap();
        self.call(&key(seed), &call.header("x-forwarded-for", client)).await
    }

    async fn search_as(&self, client: &str) -> Reply {
        self.plain(&Call::get(route::ADVERTISEMENTS).header("x-forwarded-for", client)).await
    }
}

const BEHIND_A_PROXY: (&str, &str) = ("GOLEM_DISCOVERY_TRUSTED_PROXIES", "127.0.0.0/8");

#[tokio::test]
async fn an_endpoint_is_the_address_that_it_came_from() {
    let market = Market::start(&[BEHIND_A_PROXY]).await;
    let reply = market.publish_as(1, "203.0.113.9", "203.0.113.9").await;
    assert_eq!(reply.headers["golem-observed-address"], "203.0.113.9");
    reply.ok().unwrap();
    let elsewhere = problem(&market.publish_as(2, "203.0.113.9", "198.51.100.1").await);
    assert_eq!(elsewhere.code, ErrorCode::AddressNotYours);
    assert!(elsewhere.detail.contains("198.51.100.1 port 7466"), "{}", elsewhere.detail);
    // What the client itself wrote to the left of the proxy's word changes nothing.
    let spoofed = market.publish_as(2, "198.51.100.1, 203.0.113.9", "198.51.100.1").await;
    assert_eq!(problem(&spoofed).code, ErrorCode::AddressNotYours);
    assert_eq!(market.list("").await.len(), 1);
}

#[tokio::test]
async fn a_proxy_that_nobody_trusts_changes_nothing() {
    let market = Market::start(&[]).await;
    let reply = market.publish_as(1, "203.0.113.9", "203.0.113.9").await;
    assert_eq!(problem(&reply).code, ErrorCode::AddressNotYours);
}

#[tokio::test]
async fn an_address_lists_only_so_many() {
    let most = ("GOLEM_DISCOVERY_MAX_PROVIDERS_PER_ADDRESS", "2");
    let market = Market::start(&[BEHIND_A_PROXY, most]).await;
    for seed in 1..=2 {
        market.publish_as(seed, "203.0.113.9", "203.0.113.9").await.ok().unwrap();
    }
    let reply = market.publish_as(3, "203.0.113.9", "203.0.113.9").await;
    let refused = problem(&reply);
    assert_eq!((refused.code, refused.retry_after), (ErrorCode::RateLimited, Some(60)));
    assert_eq!(reply.headers["retry-after"], "60");
    market.publish_as(3, "203.0.113.10", "203.0.113.10").await.ok().unwrap();
}

#[tokio::test]
async fn searches_are_limited_by_address_and_writes_have_their_own_limit() {
    let rate = ("GOLEM_DISCOVERY_SEARCHES_PER_MINUTE", "3");
    let market = Market::start(&[BEHIND_A_PROXY, rate]).await;
    for left in ["2", "1", "0"] {
        let reply = market.search_as("203.0.113.9").await;
        let expected = format!("\"address-expensive\";r={left};");
        assert!(reply.headers["ratelimit"].to_str().unwrap().starts_with(&expected));
        assert_eq!(reply.headers["ratelimit-policy"], "\"address-expensive\";q=3;w=60");
    }
    let reply = market.search_as("203.0.113.9").await;
    assert_eq!(
        (problem(&reply).code, problem(&reply).retry_after),
        (ErrorCode::RateLimited, Some(20))
    );
    assert_eq!(market.search_as("203.0.113.10").await.status, 200);
    market.publish_as(1, "203.0.113.9", "203.0.113.9").await.ok().unwrap();
    market.clock.advance(20);
    assert_eq!(market.search_as("203.0.113.9").await.status, 200);
}
