//! The original's check: whether something listens at ports of any public address. On only where
//! the operator allows unsigned requests, as anybody can scan with it.

use ::http::request::Parts;
use axum::extract::{FromRequestParts, State};
use axum::{Extension, Json};
use golem_vm_node::http::{Caller, JsonBody, Peer, PeerAddr, ProblemResponse, VerifiedCaller};
use golem_vm_protocol::ErrorCode;
use golem_vm_protocol::port_check::{CheckPortsRequest, CheckPortsResponse, PortResult};
use golem_vm_protocol::route;

use super::{Checker, distinct, wrong_ports};
use crate::probe::Probe;

/// A caller that is served here at all. Taken before the body is looked at, so that a refused
/// request gets the same answer whatever it holds.
pub(super) struct Served;

impl FromRequestParts<Checker> for Served {
    type Rejection = ProblemResponse;

    async fn from_request_parts(
        parts: &mut Parts,
        checker: &Checker,
    ) -> Result<Self, ProblemResponse> {
        if checker.allow_unsigned {
            return Ok(Self);
        }
        match parts.extensions.get::<Caller>() {
            Some(Caller::Verified(_)) => Err(ProblemResponse::new(
                ErrorCode::Forbidden,
                format!(
                    "this port checker does not look for open ports; ask POST {} which ports are yours",
                    route::PORT_CHECKS
                ),
            )),
            _ => Err(VerifiedCaller::required()),
        }
    }
}

pub(super) async fn check(
    State(checker): State<Checker>,
    _: Served,
    Extension(PeerAddr(peer)): Extension<PeerAddr>,
    JsonBody(request): JsonBody<CheckPortsRequest>,
) -> Result<Json<CheckPortsResponse>, ProblemResponse> {
    let ports = request
        .valid_ports()
        .map_err(|number| wrong_ports(format!("Invalid port number: {number}")))?;
    let ports = distinct(&ports)?;
    let _share = checker.enter(Peer::tcp(peer).bucket())?;
    let address = checker.guard.named(request.provider_ip.as_deref()).await?;
    let found = checker.prober.check(address, &ports, Probe::Open).await;
    let reached = found.values().filter(|outcome| outcome.is_ok()).count();
    tracing::info!(%address, reached, asked = ports.len(), "looked for open ports");
    let results = found
        .into_iter()
        .map(|(port, outcome)| {
            let error = outcome.err().map(|failure| failure.detail);
            (port, PortResult { accessible: error.is_none(), error })
        })
        .collect();
    Ok(Json(CheckPortsResponse {
        success: reached > 0,
        message: format!("Successfully verified {reached} out of {} ports", ports.len()),
        results,
        checked_address: Some(address.to_string()),
        observed_address: Some(peer.ip().to_string()),
        checker_id: Some(checker.key.id()),
        plain: true,
    }))
}
