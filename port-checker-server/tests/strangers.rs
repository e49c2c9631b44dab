//! Callers without a key, and with any, try every route with every method.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::sync::Arc;

use golem_port_checker::config::TABLE;
use golem_port_checker::server::Limits;
use golem_port_checker::{Config, Server};
use golem_vm_node::client::{Call, Reply, SignedClient, Target};
use golem_vm_node::clock::{Clock, ManualClock};
use golem_vm_node::settings::{Settings, SettingsSource};
use golem_vm_protocol::route::{Caller, ROUTES, Service};
use golem_vm_protocol::{ErrorCode, KeyPair, Problem, route};
use http::Method;
use serde_json::json;
use tokio_util::sync::CancellationToken;

const METHODS: [&str; 11] = [
    "GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "CONNECT", "PROPFIND",
    "check",
];

struct Checker {
    base: String,
    client: SignedClient,
    _stop: tokio_util::sync::DropGuard,
}

impl Checker {
    async fn start(allow_unsigned: &str) -> Self {
        let given = [
            ("PORT_CHECKER_HOST", "127.0.0.1"),
            ("PORT_CHECKER_PORT", "0"),
            ("PORT_CHECKER_CHECKS_PER_MINUTE", "0"),
            ("PORT_CHECKER_ALLOW_UNSIGNED", allow_unsigned),
            ("PORT_CHECKER_ALLOW_PRIVATE_ADDRESSES", "true"),
        ];
        let environment = given.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let source =
            SettingsSource { environment: environment.into(), ..SettingsSource::default() };
        let config = Config::from_settings(&Settings::load(&TABLE, source).unwrap()).unwrap();
        let clock = Arc::new(ManualClock::at(1_800_000_000));
        let key = KeyPair::generate().unwrap();
        let server = Server::bind(&config, key, clock.clone(), Limits::default()).await.unwrap();
        clock.advance(2);
        let base = format!("http://{}", server.address());
        let stop = CancellationToken::new();
        tokio::spawn(server.run(stop.clone()));
        let client = SignedClient::new(KeyPair::generate().unwrap(), clock as Arc<dyn Clock>);
        Self { base, client: client.unwrap(), _stop: stop.drop_guard() }
    }

    async fn unsigned(&self, call: &Call<'_>) -> Reply {
        self.client.call_unsigned(&self.base, call).await.unwrap()
    }

    async fn signed(&self, call: &Call<'_>) -> Reply {
        let target = Target::service(&self.base).unwrap();
        self.client.call(&target, call).await.unwrap().reply
    }
}

fn code(reply: &Reply) -> ErrorCode {
    serde_json::from_slice::<Problem>(&reply.body).unwrap().code
}

#[tokio::test]
async fn only_what_is_public_is_there_for_everybody() {
    let checker = Checker::start("false").await;
    let patterns: BTreeSet<&str> = ROUTES.iter().map(|route| route.pattern).collect();
    // No ports: nothing is dialled.
    let body = json!({"ports": []});
    for pattern in patterns {
        let here = ROUTES
            .iter()
            .filter(|route| route.service == Service::PortChecker && route.pattern == pattern);
        for method in METHODS {
            let call = Call::new(Method::from_bytes(method.as_bytes()).unwrap(), pattern);
            let call = call.json(&body).unwrap();
            let (unsigned, signed) = (checker.unsigned(&call).await, checker.signed(&call).await);
            let what = format!("{method} {pattern}: {unsigned:?}, {signed:?}");
            assert!(!unsigned.headers.contains_key("signature"), "{what}");
            if method == "CONNECT" {
                // Names no path, so that it is not the request that was signed either.
                assert!(unsigned.status.is_client_error() && signed.status == 401, "{what}");
                continue;
            }
            let asked = if method == "HEAD" { "GET" } else { method };
            match here.clone().find(|route| route.method == asked).map(|route| route.caller) {
                Some(Caller::Everybody) => assert_eq!(unsigned.status, 200, "{what}"),
                Some(_) => {
                    assert_eq!(code(&unsigned), ErrorCode::SignatureRequired, "{what}");
                    // The original's check is off here, for keys as well.
                    let served: &[u16] =
                        if pattern == route::CHECK_PORTS { &[403] } else { &[200, 422] };
                    assert!(served.contains(&signed.status.as_u16()), "{what}");
                }
                None => {
                    let expected = if here.clone().next().is_some() { 405 } else { 404 };
                    assert_eq!(unsigned.status, expected, "{what}");
                    assert_eq!(signed.status, expected, "{what}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_signature_that_fails_is_not_served_as_none() {
    for (allow_unsigned, plain) in [("false", 401), ("true", 200)] {
        let checker = Checker::start(allow_unsigned).await;
        let body = json!({"provider_ip": "127.0.0.1", "ports": []});
        let call = || Call::post(route::CHECK_PORTS, &body).unwrap();
        assert_eq!(checker.unsigned(&call()).await.status, plain);
        for (name, value) in [
            ("signature", "sig1=:AAAA:"),
            ("signature-input", "sig1=()"),
            ("golem-recipient", "somebody"),
        ] {
            let reply = checker.unsigned(&call().header(name, value)).await;
            assert_eq!(code(&reply), ErrorCode::SignatureInvalid, "{name}");
        }
    }
}
