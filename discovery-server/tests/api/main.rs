//! The service over HTTP, as providers and requestors meet it.

#![allow(clippy::unwrap_used)]

mod attackers;
mod market;
mod process;
mod strangers;
mod unsigned;

use golem_vm_discovery::server::Server;
use golem_vm_node::client::Call;
use golem_vm_protocol::advertisement::{Advertisement, AdvertisementEntry, Withdrawn};
use golem_vm_protocol::document::{Document, Envelope};
use golem_vm_protocol::provider::Health;
use golem_vm_protocol::{ErrorCode, VmResources, route};
use market::{Market, config, key, problem};

#[tokio::test]
async fn health_answers_and_unknown_paths_say_so() {
    let market = Market::start(&[]).await;
    assert_eq!(market.get("/health").await.json::<Health>().unwrap().status, "healthy");
    assert_eq!(problem(&market.get("/").await).code, ErrorCode::NotFound);
    let put = Call::new(http::Method::PUT, route::ADVERTISEMENTS);
    assert_eq!(problem(&market.plain(&put).await).code, ErrorCode::MethodNotAllowed);
}

/// A document of tomorrow: it has members that this version does not know.
#[derive(serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
struct Tomorrow(serde_json::Value);

impl Document for Tomorrow {
    const TYPE: &'static str = Advertisement::TYPE;
}

#[tokio::test]
async fn a_document_is_listed_byte_for_byte() {
    let market = Market::start(&[]).await;
    let mut content = serde_json::to_value(market.advertisement(&key(1), 1)).unwrap();
    content["of_tomorrow"] = serde_json::json!([1, {"a": "b"}]);
    let envelope = Envelope::seal(&Tomorrow(content), &key(1)).unwrap();
    let reply = market.post(&key(1), &envelope).await;
    assert_eq!(reply.headers["golem-observed-address"], "127.0.0.1");
    assert_eq!(reply.headers["content-type"], "application/json");
    let entry: AdvertisementEntry = reply.json().unwrap();
    assert_eq!(entry.document, Some(envelope));
    assert!(entry.verified && entry.last_seen.is_some() && entry.expires_at.is_some());
    assert_eq!(market.list("").await, std::slice::from_ref(&entry));

    let one = market.get(&route::advertisement(&key(1).id())).await;
    assert_eq!(one.json::<AdvertisementEntry>().unwrap(), entry);
    assert_eq!(one.headers["access-control-allow-origin"], "*");
    // What a reader of the original sees comes first, in its order.
    let text = String::from_utf8(one.body.to_vec()).unwrap();
    let places: Vec<_> = [
        "provider_id",
        "ip_address",
        "country",
        "resources",
        "pricing",
        "created_at",
        "updated_at",
    ]
    .iter()
    .map(|name| text.find(&format!("\"{name}\":")).unwrap())
    .collect();
    assert!(places.is_sorted());
    let missing = market.get(&route::advertisement(&key(2).id())).await;
    assert_eq!(problem(&missing).code, ErrorCode::AdvertisementNotFound);
    // A provider asks so for its own address before it can publish anything.
    assert_eq!(missing.headers["golem-observed-address"], "127.0.0.1");
}

#[tokio::test]
async fn only_a_newer_one_replaces() {
    let market = Market::start(&[]).await;
    let first = market.sealed(&key(1), 5);
    market.post(&key(1), &first).await.ok().unwrap();
    market.clock.advance(30);
    let again: AdvertisementEntry = market.post(&key(1), &first).await.json().unwrap();
    let seen = again.last_seen.unwrap().since(again.updated_at.0);
    assert_eq!(seen.as_secs(), 30);

    let other = problem(&market.publish(&key(1), 5).await);
    assert_eq!(other.code, ErrorCode::SequenceNotNewer);
    assert!(other.detail.contains("5 is not newer than 5"), "{}", other.detail);
    assert_eq!(problem(&market.publish(&key(1), 4).await).code, ErrorCode::SequenceNotNewer);
    market.publish(&key(1), 6).await.ok().unwrap();
    assert_eq!(market.list("").await.len(), 1);
}

#[tokio::test]
async fn only_its_own_key_publishes_and_withdraws() {
    let market = Market::start(&[]).await;
    market.publish(&key(1), 1).await.ok().unwrap();
    let foreign = market.post(&key(2), &market.sealed(&key(1), 2)).await;
    assert_eq!(problem(&foreign).code, ErrorCode::Forbidden);
    let in_anothers_name = Envelope::seal(&market.advertisement(&key(1), 3), &key(2)).unwrap();
    let stolen = market.post(&key(2), &in_anothers_name).await;
    assert_eq!(problem(&stolen).code, ErrorCode::DocumentInvalid);

    assert_eq!(problem(&market.delete(&key(2), &key(1)).await).code, ErrorCode::Forbidden);
    assert_eq!(
        problem(&market.delete(&key(3), &key(3)).await).code,
        ErrorCode::AdvertisementNotFound
    );
    let path = route::advertisement(&key(1).id());
    let unsigned = market.plain(&Call::new(http::Method::DELETE, &path)).await;
    assert_eq!(problem(&unsigned).code, ErrorCode::SignatureRequired);
    assert_eq!(market.list("").await.len(), 1);

    let done = market.delete(&key(1), &key(1)).await;
    assert_eq!(done.json::<Withdrawn>().unwrap().status, "success");
    assert_eq!(market.list("").await, []);
    assert_eq!(
        problem(&market.delete(&key(1), &key(1)).await).code,
        ErrorCode::AdvertisementNotFound
    );
    assert_eq!(problem(&market.publish(&key(1), 1).await).code, ErrorCode::SequenceNotNewer);
    market.publish(&key(1), 2).await.ok().unwrap();
}

#[tokio::test]
async fn what_is_no_good_document_is_refused() {
    let market = Market::start(&[]).await;
    let good = market.advertisement(&key(1), 1);
    let sealed = |document: &Advertisement| Envelope::seal(document, &key(1)).unwrap();
    let expired = Advertisement { expires_at: good.issued_at, ..good.clone() };
    let escape = Advertisement { name: "\u{1b}[31m".into(), ..good.clone() };
    for document in [expired, escape] {
        let reply = market.post(&key(1), &sealed(&document)).await;
        assert_eq!(problem(&reply).code, ErrorCode::DocumentInvalid);
    }
    let broken = Envelope { signature: "AAAA".into(), ..sealed(&good) };
    assert_eq!(problem(&market.post(&key(1), &broken).await).code, ErrorCode::DocumentInvalid);
    let no_envelope = market.post(&key(1), &good).await;
    assert_eq!(problem(&no_envelope).code, ErrorCode::ValidationFailed);
    let big = Envelope { payload: "A".repeat(12_000), ..sealed(&good) };
    assert_eq!(problem(&market.post(&key(1), &big).await).code, ErrorCode::DocumentInvalid);
    let huge = Envelope { payload: "A".repeat(70_000), ..sealed(&good) };
    assert_eq!(problem(&market.post(&key(1), &huge).await).code, ErrorCode::PayloadTooLarge);
    assert_eq!(market.list("").await, []);
}

#[tokio::test]
async fn entries_leave_the_list_in_time() {
    let market = Market::start(&[("GOLEM_DISCOVERY_ADVERTISEMENT_EXPIRY_MINUTES", "2")]).await;
    market.publish(&key(1), 1).await.ok().unwrap();
    market.clock.advance(119);
    assert_eq!(market.list("").await.len(), 1);
    market.clock.advance(1);
    assert_eq!(market.list("").await, []);
    let one = market.get(&route::advertisement(&key(1).id())).await;
    assert_eq!(problem(&one).code, ErrorCode::AdvertisementNotFound);
    assert_eq!(problem(&market.publish(&key(1), 1).await).code, ErrorCode::SequenceNotNewer);
    market.publish(&key(1), 2).await.ok().unwrap();
}

#[tokio::test]
async fn searches_filter_and_page() {
    let market = Market::start(&[]).await;
    for seed in 1..=5 {
        let resources = VmResources { cpu: seed.into(), memory: 4, storage: 40 };
        let document = Advertisement { resources, ..market.advertisement(&key(seed), 1) };
        market
            .post(&key(seed), &Envelope::seal(&document, &key(seed)).unwrap())
            .await
            .ok()
            .unwrap();
    }
    assert_eq!(market.list("?cpu=4&memory=4&storage=40&country=SE&platform=x86_64").await.len(), 2);
    assert_eq!(market.list("?isolation=container&max_usd_per_month=8&unknown=1").await.len(), 5);
    assert_eq!(market.list("?max_usd_per_month=7.5").await, []);

    let all = market.list("").await;
    let (mut seen, mut path) = (Vec::new(), format!("{}?limit=2", route::ADVERTISEMENTS));
    loop {
        let page = market.get(&path).await;
        seen.extend(page.json::<Vec<AdvertisementEntry>>().unwrap());
        let Some(next) = page.headers.get("golem-next-cursor") else { break };
        path = format!("{}?limit=2&cursor={}", route::ADVERTISEMENTS, next.to_str().unwrap());
    }
    assert_eq!(seen, all);

    let refused = async |query: &str| {
        problem(&market.get(&format!("{}{query}", route::ADVERTISEMENTS)).await)
    };
    assert_eq!(refused("?cpu=0").await.code, ErrorCode::BadRequest);
    let unreadable = refused("?cpu=abc&limit=x&cursor=%00").await;
    assert_eq!(unreadable.code, ErrorCode::ValidationFailed);
    let pointers: Vec<_> = unreadable.errors.iter().map(|error| error.pointer.as_str()).collect();
    assert_eq!(pointers, ["?cpu", "?limit", "?cursor"]);
}

#[tokio::test]
async fn a_restart_keeps_what_was_published_and_what_was_withdrawn() {
    let market = Market::start(&[]).await;
    for seed in 1..=2 {
        market.publish(&key(seed), 5).await.ok().unwrap();
    }
    market.delete(&key(2), &key(2)).await.ok().unwrap();
    let before = market.list("").await;
    let (dir, clock) = market.stop().await;
    let market = Market::start_in(dir, clock, &[]).await;
    assert_eq!(market.list("").await, before);
    assert_eq!(problem(&market.publish(&key(2), 5).await).code, ErrorCode::SequenceNotNewer);
}

#[tokio::test]
async fn a_second_server_on_the_directory_is_refused() {
    let market = Market::start(&[]).await;
    let config = config(market.dir.path(), &[]);
    let error = Server::prepare(&config, market.clock.clone()).await.unwrap_err();
    assert!(format!("{error:#}").contains("is in use by another process"), "{error:#}");
}
