//! The routes.

use std::collections::BTreeSet;

use ::http::request::Parts;
use axum::extract::{FromRequestParts, State};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use golem_vm_node::http::{
    AddressShares, Caller, JsonBody, Peer, PeerAddr, ProblemResponse, VerifiedCaller,
};
use golem_vm_protocol::port_check::{CheckPortsRequest, CheckPortsResponse, MAX_PORTS};
use golem_vm_protocol::{FieldError, KeyId, Problem, route};
use serde_json::{Value, json};

use crate::guard;
use crate::probe::Prober;

/// What the handlers share.
#[derive(Debug, Clone)]
pub(crate) struct Checker {
    pub(crate) id: KeyId,
    pub(crate) allow_unsigned: bool,
    pub(crate) prober: Prober,
    pub(crate) shares: AddressShares,
}

pub(crate) fn router(checker: Checker) -> Router {
    Router::new()
        .route(route::HEALTH, get(health))
        .route(route::CHECK_PORTS, post(check_ports))
        .with_state(checker)
}

async fn health() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

/// A caller that is served here at all. Taken before the body is looked at, so that an unsigned
/// request gets the same answer whatever it holds.
struct Served(Caller);

impl FromRequestParts<Checker> for Served {
    type Rejection = ProblemResponse;

    async fn from_request_parts(
        parts: &mut Parts,
        checker: &Checker,
    ) -> Result<Self, ProblemResponse> {
        match parts.extensions.get::<Caller>().copied().unwrap_or(Caller::Anonymous) {
            Caller::Anonymous if !checker.allow_unsigned => Err(VerifiedCaller::required()),
            caller => Ok(Self(caller)),
        }
    }
}

async fn check_ports(
    State(checker): State<Checker>,
    Served(caller): Served,
    Extension(PeerAddr(peer)): Extension<PeerAddr>,
    JsonBody(request): JsonBody<CheckPortsRequest>,
) -> Result<Json<CheckPortsResponse>, ProblemResponse> {
    let ports = valid_ports(&request)?;
    let _share = guard::enter(&checker.shares, Peer::tcp(peer).bucket())?;
    let address = guard::target(caller, peer.ip(), request.provider_ip.as_deref()).await?;
    let results = checker.prober.check(address, &ports).await;
    let reached = results.values().filter(|result| result.accessible).count();
    tracing::info!(%address, reached, asked = ports.len(), "checked");
    Ok(Json(CheckPortsResponse {
        success: reached > 0,
        message: format!("Successfully verified {reached} out of {} ports", ports.len()),
        results,
        checked_address: Some(address.to_string()),
        observed_address: Some(peer.ip().to_string()),
        checker_id: Some(checker.id),
        plain: caller == Caller::Anonymous,
    }))
}

fn valid_ports(request: &CheckPortsRequest) -> Result<BTreeSet<u16>, ProblemResponse> {
    let wrong = |detail: String| Problem::validation(vec![FieldError::new("/ports", detail)]);
    if request.ports.len() > MAX_PORTS {
        let detail = format!(
            "{} ports in one request; at most {MAX_PORTS} are checked at a time",
            request.ports.len()
        );
        return Err(wrong(detail).into());
    }
    let ports =
        request.valid_ports().map_err(|number| wrong(format!("Invalid port number: {number}")))?;
    Ok(ports.into_iter().collect())
}
