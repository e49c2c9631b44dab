//! Whether a provider is where its advertisement says: pure.
//!
//! An endpoint counts when it is the very address that the advertisement came from, or when a port
//! checker that the operator accepts has attested that this provider's key answers there. Names are
//! not resolved: what a name says to this server now it need not say to a requestor later, so they
//! need an attestation as well.

use std::net::IpAddr;

use golem_vm_protocol::KeyId;
use golem_vm_protocol::advertisement::{Advertisement, Endpoint};
use golem_vm_protocol::attestation::{
    AcceptedCheckers, Attested, Claim, PortAttestation, same_host,
};
use golem_vm_protocol::time::Timestamp;

/// What makes an endpoint count.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EndpointPolicy {
    /// The port checkers whose attestations are accepted.
    pub checkers: Vec<KeyId>,
    /// Whether everything counts: for closed test networks.
    pub unproven: bool,
}

/// An endpoint that might be somebody else's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the advertisement comes from {peer} and names {host}{}: {}", port_text(*.port), remedy(*.accepts_checkers)
)]
pub struct UnprovenEndpoint {
    /// The address that it came from.
    pub peer: IpAddr,
    /// The host that it names; one of the few characters that hosts are made of.
    pub host: String,
    /// The API's port; `None` for the SSH host.
    pub port: Option<u16>,
    /// Whether an attestation would help.
    pub accepts_checkers: bool,
}

fn port_text(port: Option<u16>) -> String {
    port.map_or_else(|| " for SSH".to_owned(), |port| format!(" port {port}"))
}

const fn remedy(accepts_checkers: bool) -> &'static str {
    if accepts_checkers {
        "advertise the address that you publish from, or attach the attestation of a port checker that this \
         server accepts"
    } else {
        "advertise the address that you publish from; this server accepts no port checker's attestations"
    }
}

/// Checks every direct endpoint of `document`, which came from `peer`. Returns until when the
/// attestations hold that were needed.
///
/// # Errors
/// The first endpoint that does not count.
pub fn check(
    document: &Advertisement,
    peer: IpAddr,
    policy: &EndpointPolicy,
    now: Timestamp,
) -> Result<Option<Timestamp>, UnprovenEndpoint> {
    if policy.unproven {
        return Ok(None);
    }
    let needs = needs(document, peer);
    if needs.is_empty() {
        return Ok(None);
    }
    let attested = attested(document, &needs, policy, now);
    let mut until: Option<Timestamp> = None;
    for need in needs {
        // The one that holds longest.
        let best = attested
            .iter()
            .filter(|attested| same_host(&attested.attestation.host, need.host))
            .filter(|attested| {
                need.port.is_none_or(|port| attested.attestation.ports.contains(port))
            })
            .map(|attested| attested.attestation.expires_at)
            .max();
        match best {
            Some(expires_at) => {
                until = Some(until.map_or(expires_at, |until| until.min(expires_at)));
            }
            None => {
                return Err(UnprovenEndpoint {
                    peer,
                    host: need.host.to_owned(),
                    port: need.port,
                    accepts_checkers: !policy.checkers.is_empty(),
                });
            }
        }
    }
    Ok(until)
}

/// A host that needs an attestation, and the port of the API there.
#[derive(Debug, Clone, Copy)]
struct Need<'a> {
    host: &'a str,
    port: Option<u16>,
}

fn needs(document: &Advertisement, peer: IpAddr) -> Vec<Need<'_>> {
    let is_peer = |host: &str| {
        host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical() == peer.to_canonical())
    };
    let mut needs = Vec::new();
    for endpoint in &document.endpoints {
        let Endpoint::Direct { api, ssh_host } = endpoint else { continue };
        let (host, port) = api.rsplit_once(':').unwrap_or((api, ""));
        let host = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        // The document's form was checked: there is a port.
        needs.push(Need { host, port: port.parse().ok() });
        needs.push(Need { host: ssh_host, port: None });
    }
    needs.retain(|need| !is_peer(need.host));
    needs
}

/// The attestations that are genuine, accepted, and about one of the hosts. Each signature is
/// checked once at most, however many endpoints there are.
fn attested(
    document: &Advertisement,
    needs: &[Need<'_>],
    policy: &EndpointPolicy,
    now: Timestamp,
) -> Vec<Attested> {
    let mut found = Vec::new();
    for envelope in &document.attestations {
        let Ok(payload) = envelope.payload_bytes() else { continue };
        // Only to see which host it is about; what counts is read again once it is verified.
        let Ok(said) = serde_json::from_slice::<PortAttestation>(&payload) else { continue };
        let Some(need) = needs.iter().find(|need| same_host(&said.host, need.host)) else {
            continue;
        };
        let claim = Claim {
            provider: document.provider_id,
            host: need.host,
            ports: &[],
            now,
            accepted: AcceptedCheckers::Only(&policy.checkers),
        };
        found.extend(PortAttestation::verify(envelope, &claim));
    }
    found
}
