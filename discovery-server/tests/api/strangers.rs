//! Callers without a key, and with another one than the provider's, try every route with every method; and
//! providers of the original, where they are allowed and where they are not.

use std::collections::BTreeSet;

use golem_vm_node::client::{Call, Reply};
use golem_vm_protocol::ErrorCode;
use golem_vm_protocol::route::{self, Caller, ROUTES, Service};
use http::Method;

use crate::market::{Market, key, problem};

const METHODS: [&str; 11] = [
    "GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "CONNECT", "PROPFIND",
    "publish",
];

fn served(method: &str, pattern: &str) -> Option<Caller> {
    let method = if method == "HEAD" { "GET" } else { method };
    ROUTES
        .iter()
        .find(|route| {
            route.service == Service::Discovery
                && (route.method, route.pattern) == (method, pattern)
        })
        .map(|route| route.caller)
}

fn here(pattern: &str) -> bool {
    ROUTES.iter().any(|route| route.service == Service::Discovery && route.pattern == pattern)
}

/// Every pattern of every service with what is listed, and with what is not, in the place of its parameter.
fn paths() -> Vec<(&'static str, [String; 2])> {
    let patterns: BTreeSet<&str> = ROUTES.iter().map(|route| route.pattern).collect();
    let paths = patterns.into_iter().map(|pattern| {
        let of = |seed| pattern.replace("{provider_id}", &key(seed).id().to_string());
        let both = [of(1), of(2)];
        let unknown = here(pattern) && both[0].contains('{');
        assert!(!unknown, "teach this test what stands for the parameters of {pattern}");
        (pattern, both)
    });
    paths.collect()
}

async fn listed(market: &Market) -> Vec<golem_vm_protocol::advertisement::AdvertisementEntry> {
    let mut entries = market.list("").await;
    for entry in &mut entries {
        entry.last_seen = None;
    }
    entries
}

/// What is left of a reply when the request's id, the time and the signature are taken out.
fn without(reply: &Reply, path: &str) -> (u16, String, Vec<(String, String)>) {
    let id = reply.headers["x-request-id"].to_str().unwrap();
    let body = String::from_utf8(reply.body.to_vec()).unwrap();
    let body = body.replace(id, "<id>").replace(path.rsplit('/').next().unwrap(), "<name>");
    let left_out =
        ["x-request-id", "date", "signature", "signature-input", "content-digest", "ratelimit"];
    let headers = reply
        .headers
        .iter()
        .filter(|(name, _)| !left_out.contains(&name.as_str()))
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
        .collect();
    (reply.status.as_u16(), body, headers)
}

#[tokio::test]
async fn strangers_change_nothing_and_read_what_is_public() {
    for allow_unsigned in ["false", "true"] {
        let market = Market::start(&[
            ("GOLEM_DISCOVERY_ALLOW_UNSIGNED", allow_unsigned),
            ("GOLEM_DISCOVERY_SEARCHES_PER_MINUTE", "0"),
            ("GOLEM_DISCOVERY_READS_PER_MINUTE", "0"),
            ("GOLEM_DISCOVERY_WRITES_PER_MINUTE", "0"),
        ])
        .await;
        market.publish(&key(1), 5).await.ok().unwrap();
        let before = listed(&market).await;
        let envelope = serde_json::to_value(market.sealed(&key(1), 6)).unwrap();
        for (pattern, both) in paths() {
            for method in METHODS {
                let call = |path| {
                    Call::new(Method::from_bytes(method.as_bytes()).unwrap(), path)
                        .json(&envelope)
                        .unwrap()
                };
                let mut answers = Vec::new();
                for path in &both {
                    let anonymous = market.plain(&call(path)).await;
                    // What is signed by another key, and for another provider.
                    let other = market.call(&key(3), &call(path)).await;
                    let what = format!("{method} {path}: {anonymous:?}, {other:?}");
                    assert!(!anonymous.headers.contains_key("signature"), "{what}");
                    if method == "CONNECT" {
                        // Names no path, so that it is not the request that was signed either.
                        assert!(anonymous.status.is_client_error(), "{what}");
                        assert_eq!(other.status, 401, "{what}");
                        continue;
                    }
                    match served(method, pattern) {
                        Some(Caller::Everybody) => {
                            let expected = anonymous.status.as_u16();
                            assert!([200, 404].contains(&expected), "{what}");
                            assert_eq!(other.status, anonymous.status, "{what}");
                        }
                        Some(_) => {
                            // Where unsigned providers are served, theirs are other entries.
                            let refused: &[u16] =
                                if allow_unsigned == "true" { &[401, 422] } else { &[401] };
                            assert!(refused.contains(&anonymous.status.as_u16()), "{what}");
                            assert_eq!(problem(&other).code, ErrorCode::Forbidden, "{what}");
                            answers.push((without(&anonymous, path), without(&other, path)));
                        }
                        None => {
                            let expected: &[u16] = if here(pattern) { &[405] } else { &[404] };
                            for reply in [&anonymous, &other] {
                                assert!(expected.contains(&reply.status.as_u16()), "{what}");
                            }
                        }
                    }
                }
                // Who is listed is public; a refusal does not say it all the same.
                if let [there, nowhere] = answers.as_slice() {
                    assert_eq!(there, nowhere, "{method} {pattern}");
                }
            }
        }
        assert_eq!(listed(&market).await, before);
    }
}

#[tokio::test]
async fn a_signature_that_fails_is_not_served_as_none() {
    let market = Market::start(&[("GOLEM_DISCOVERY_ALLOW_UNSIGNED", "true")]).await;
    let body = serde_json::json!({
        "ip_address": "127.0.0.1", "country": "SE",
        "resources": {"cpu": 2, "memory": 21, "storage": 69}, "pricing": null,
    });
    let call = || {
        let call = Call::post(route::ADVERTISEMENTS, &body).unwrap();
        call.header("x-provider-id", "0xoriginal").header("x-provider-signature", "signature")
    };
    for (name, value) in [
        ("signature", "sig1=:AAAA:"),
        ("signature-input", "sig1=()"),
        ("golem-recipient", "somebody"),
    ] {
        let reply = market.plain(&call().header(name, value)).await;
        assert_eq!(problem(&reply).code, ErrorCode::SignatureInvalid, "{name}");
    }
    assert_eq!(market.list("").await, []);
    market.plain(&call()).await.ok().unwrap();
}
