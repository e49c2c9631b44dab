//! Providers that do not sign: served when the operator says so, and never where a key is meant.

use golem_vm_node::client::{Call, Reply};
use golem_vm_protocol::advertisement::{AdvertisementEntry, Withdrawn};
use golem_vm_protocol::{ErrorCode, route};

use crate::market::{Market, key, problem};

const ORIGINAL: &str = "0x21995069BEb0FA8324d32Ba3783387B6F13261d6";

/// What the original's provider sends.
fn body() -> serde_json::Value {
    serde_json::json!({
        "ip_address": "127.0.0.1", "country": "SE", "platform": "x86_64",
        "resources": {"cpu": 2, "memory": 21, "storage": 69},
        "pricing": {"usd_per_core_month": 5.0, "usd_per_gb_ram_month": 2.0, "usd_per_gb_storage_month": 0.1,
                    "glm_per_core_month": 20.0, "glm_per_gb_ram_month": 8.0, "glm_per_gb_storage_month": 0.4},
    })
}

async fn post(market: &Market, id: &str, body: &serde_json::Value) -> Reply {
    let call = Call::post(route::ADVERTISEMENTS, body).unwrap();
    market
        .plain(&call.header("x-provider-id", id).header("x-provider-signature", "signature"))
        .await
}

#[tokio::test]
async fn by_default_they_are_told_to_sign() {
    let market = Market::start(&[]).await;
    let reply = post(&market, ORIGINAL, &body()).await;
    assert_eq!(problem(&reply).code, ErrorCode::SignatureRequired);
    assert_eq!(market.list("").await, []);
}

#[tokio::test]
async fn where_they_are_allowed_the_original_works() {
    let market = Market::start(&[("GOLEM_DISCOVERY_ALLOW_UNSIGNED", "true")]).await;
    let entry: AdvertisementEntry = post(&market, ORIGINAL, &body()).await.json().unwrap();
    assert_eq!(entry.provider_id, ORIGINAL);
    assert_eq!(entry.pricing, Some(body()["pricing"].clone()));
    assert!(!entry.verified && entry.document.is_none());
    assert_eq!(
        market.list("?cpu=2&country=SE&platform=x86_64&max_usd_per_month=13").await,
        [entry]
    );
    // Of an unsigned provider no isolation is known.
    assert_eq!(market.list("?isolation=vm").await, []);

    let mut changed = body();
    changed["country"] = "DE".into();
    post(&market, ORIGINAL, &changed).await.ok().unwrap();
    assert_eq!(market.list("").await[0].country, "DE");

    let path = format!("{}/{ORIGINAL}", route::ADVERTISEMENTS);
    let delete = |id: &'static str| {
        let call = Call::new(http::Method::DELETE, &path);
        call.header("x-provider-id", id).header("x-provider-signature", "signature")
    };
    assert_eq!(market.plain(&delete("0xother")).await.status, 401);
    let done = market.plain(&delete(ORIGINAL)).await;
    assert_eq!(done.json::<Withdrawn>().unwrap().status, "success");
    assert_eq!(market.plain(&delete(ORIGINAL)).await.status, 404);
}

#[tokio::test]
async fn what_they_get_wrong_is_named() {
    let market = Market::start(&[("GOLEM_DISCOVERY_ALLOW_UNSIGNED", "true")]).await;
    let bare = market.plain(&Call::post(route::ADVERTISEMENTS, &body()).unwrap()).await;
    let pointers: Vec<_> = problem(&bare).errors.into_iter().map(|error| error.pointer).collect();
    assert_eq!(pointers, ["header:x-provider-id", "header:x-provider-signature"]);
    let empty = post(&market, "", &body()).await;
    assert_eq!(problem(&empty).detail, "Missing provider credentials");

    for (member, value, pointer) in [
        ("ip_address", serde_json::json!("localhost"), "/ip_address"),
        ("country", serde_json::json!("SWE"), "/country"),
        ("resources", serde_json::json!({"cpu": 0, "memory": 1, "storage": 1}), "/resources/cpu"),
        ("resources", serde_json::json!({"memory": 1, "storage": 1}), "/resources/cpu"),
        ("pricing", serde_json::json!("cheap"), "/pricing"),
        ("provider_name", serde_json::json!("\u{1b}[31m"), "/provider_name"),
    ] {
        let mut wrong = body();
        wrong[member] = value;
        let problem = problem(&post(&market, ORIGINAL, &wrong).await);
        assert_eq!(problem.code, ErrorCode::ValidationFailed);
        assert_eq!(problem.errors[0].pointer, pointer);
    }
    assert_eq!(market.list("").await, []);
}

#[tokio::test]
async fn they_can_not_speak_for_a_key() {
    let market = Market::start(&[("GOLEM_DISCOVERY_ALLOW_UNSIGNED", "true")]).await;
    market.publish(&key(1), 1).await.ok().unwrap();
    let id = key(1).id().to_string();
    assert_eq!(problem(&post(&market, &id, &body()).await).code, ErrorCode::ValidationFailed);
    // Looks like a key in a list, but is none.
    assert_eq!(post(&market, &id.to_uppercase(), &body()).await.status, 422);
    assert_eq!(post(&market, &"y".repeat(52), &body()).await.status, 422);

    let path = route::advertisement(&key(1).id());
    let delete = Call::new(http::Method::DELETE, &path);
    let delete = delete.header("x-provider-id", id).header("x-provider-signature", "signature");
    assert_eq!(problem(&market.plain(&delete).await).code, ErrorCode::SignatureRequired);
    assert_eq!(market.list("").await.len(), 1);
}
