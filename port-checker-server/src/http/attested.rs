//! The check of the caller's own ports, answered with an attestation.

use std::collections::BTreeMap;
use std::net::IpAddr;

use axum::extract::State;
use axum::{Extension, Json};
use golem_vm_node::http::{JsonBody, Peer, PeerAddr, ProblemResponse, VerifiedCaller};
use golem_vm_protocol::attestation::PortAttestation;
use golem_vm_protocol::document::Envelope;
use golem_vm_protocol::port_check::{AttestedCheckRequest, AttestedCheckResponse, ProofResult};
use golem_vm_protocol::port_ranges::PortRanges;
use golem_vm_protocol::time::Timestamp;
use golem_vm_protocol::{ErrorCode, KeyId};
use tokio::time::{Instant, sleep_until};

use super::{Checker, distinct, wrong_ports};
use crate::guard::{Target, same_network};
use crate::probe::{Failure, Probe};

pub(super) async fn check(
    State(checker): State<Checker>,
    VerifiedCaller(caller): VerifiedCaller,
    Extension(PeerAddr(peer)): Extension<PeerAddr>,
    JsonBody(request): JsonBody<AttestedCheckRequest>,
) -> Result<Json<AttestedCheckResponse>, ProblemResponse> {
    let asked = Instant::now();
    let Some(first) = request.ports.first().copied() else {
        return Err(wrong_ports("name at least one port".to_owned()));
    };
    let ports = distinct(&request.ports)?;
    let _share = checker.enter(Peer::tcp(peer).bucket())?;
    let probe = Probe::Proof { checker: checker.key.id(), provider: caller };

    let address = match checker.guard.target(peer.ip(), request.host.as_deref()).await? {
        Target::Own(address) => address,
        Target::Other(address) => match other(&checker, address, first, probe).await {
            Some(address) => address,
            None => {
                sleep_until(asked + checker.refused_after).await;
                return Err(not_shown(peer.ip(), first));
            }
        },
    };
    let found = checker.prober.check(address, &ports, probe).await;
    let proven =
        request.ports.iter().copied().filter(|port| found.get(port).is_some_and(Result::is_ok));
    let proven = PortRanges::fitting(proven);
    tracing::info!(%caller, %address, proven = proven.count(), asked = ports.len(), "checked");
    let host = request.host.unwrap_or_else(|| address.to_string());
    Ok(Json(AttestedCheckResponse {
        attestation: attest(&checker, caller, &host, proven)?,
        host,
        address: address.to_string(),
        observed_address: peer.ip().to_string(),
        checker_id: checker.key.id(),
        results: worded(found),
    }))
}

/// Another address than the caller's is dialled only after one port of it was proven to be the
/// caller's: one connection, whose outcome nobody learns but by succeeding. Few at a time lead to
/// the same network, whoever asks.
async fn other(
    checker: &Checker,
    address: Option<IpAddr>,
    port: u16,
    probe: Probe,
) -> Option<IpAddr> {
    let address = address?;
    let _share = checker.guard.others.enter(same_network(address))?;
    checker.prober.once(address, port, probe).await.is_ok().then_some(address)
}

fn not_shown(peer: IpAddr, port: u16) -> ProblemResponse {
    let detail = format!(
        "your request comes from {peer}, and port {port} of the host that you named did not prove to be yours; \
         leave host out, or make sure that this port (the first in the list) can be reached there"
    );
    ProblemResponse::new(ErrorCode::AddressNotYours, detail)
}

fn attest(
    checker: &Checker,
    provider: KeyId,
    host: &str,
    ports: PortRanges,
) -> Result<Option<Envelope>, ProblemResponse> {
    if ports.is_empty() {
        return Ok(None);
    }
    let micros = i64::try_from(checker.clock.now_micros()).unwrap_or(i64::MAX);
    let observed_at = Timestamp::from_unix_micros(micros);
    let attestation = PortAttestation {
        provider_id: provider,
        host: host.to_owned(),
        ports,
        observed_at,
        expires_at: observed_at.plus(checker.attestation_validity),
    };
    let sealed = Envelope::seal(&attestation, &checker.key);
    sealed.map(Some).map_err(|error| ProblemResponse::internal(&error))
}

fn worded(found: BTreeMap<u16, Result<(), Failure>>) -> BTreeMap<u16, ProofResult> {
    let result = |outcome: Result<(), Failure>| match outcome {
        Ok(()) => ProofResult::proven(),
        Err(failure) => ProofResult::not_proven(failure.cause, failure.detail),
    };
    found.into_iter().map(|(port, outcome)| (port, result(outcome))).collect()
}
