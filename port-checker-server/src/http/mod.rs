//! The routes.

mod attested;
mod plain;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::routing::{get, post};
use axum::{Json, Router};
use golem_vm_node::clock::Clock;
use golem_vm_node::http::{AddressShare, AddressShares, ProblemResponse};
use golem_vm_protocol::port_check::MAX_PORTS;
use golem_vm_protocol::{ErrorCode, FieldError, KeyPair, Problem, route};
use serde_json::{Value, json};

use crate::guard::Guard;
use crate::probe::Prober;

/// What the handlers share.
#[derive(Debug, Clone)]
pub(crate) struct Checker {
    /// Signs the attestations.
    pub(crate) key: Arc<KeyPair>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) allow_unsigned: bool,
    pub(crate) attestation_validity: Duration,
    pub(crate) guard: Guard,
    pub(crate) prober: Prober,
    /// When a caller is told that it did not show that another address is its own.
    pub(crate) refused_after: Duration,
    /// Requests being worked on, by the caller's address.
    pub(crate) shares: AddressShares,
}

pub(crate) fn router(checker: Checker) -> Router {
    Router::new()
        .route(route::HEALTH, get(health))
        .route(route::PORT_CHECKS, post(attested::check))
        .route(route::CHECK_PORTS, post(plain::check))
        .with_state(checker)
}

async fn health() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

impl Checker {
    /// A place among the requests of the address `bucket`, until it is dropped.
    fn enter(&self, bucket: Option<IpAddr>) -> Result<AddressShare, ProblemResponse> {
        self.shares.enter(bucket).ok_or_else(|| {
            let detail =
                "your address has as many checks running here as it may; wait for one of them";
            ProblemResponse::new(ErrorCode::RateLimited, detail)
        })
    }
}

/// The ports, each once, or what is wrong with them.
fn distinct(ports: &[u16]) -> Result<BTreeSet<u16>, ProblemResponse> {
    if ports.len() > MAX_PORTS {
        let detail = format!(
            "{} ports in one request; at most {MAX_PORTS} are checked at a time",
            ports.len()
        );
        return Err(wrong_ports(detail));
    }
    if ports.contains(&0) {
        return Err(wrong_ports("Invalid port number: 0".to_owned()));
    }
    Ok(ports.iter().copied().collect())
}

fn wrong_ports(detail: String) -> ProblemResponse {
    Problem::validation(vec![FieldError::new("/ports", detail)]).into()
}
