//! A port checker's signed word about a provider's ports.
//!
//! The checker signs only what was proven to it ([`crate::port_proof`]). The provider attaches the
//! envelopes to its advertisement; whoever reads that verifies each with [`PortAttestation::verify`]
//! and takes nobody's word for it but the checkers' that it accepts.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::advertisement::is_host;
use crate::document::{Document, DocumentError, Envelope};
use crate::identity::KeyId;
use crate::port_ranges::PortRanges;
use crate::text::printable;
use crate::time::Timestamp;

/// For how long, in seconds, an attestation may be good.
pub const MAX_VALIDITY_SECONDS: u64 = 24 * 3600;
/// How far, in seconds, `observed_at` may lie in the future for clocks that differ.
const CLOCK_TOLERANCE_SECONDS: u64 = 120;
/// Longest envelope member `payload` in bytes: eight of them have to fit into an advertisement.
const MAX_PAYLOAD_TEXT: usize = 2048;

/// What the signer, a port checker, has seen. Who that is stands in the envelope's `keyid`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortAttestation {
    /// Whose key answered at each of the ports.
    pub provider_id: KeyId,
    /// Where: the address that was dialled, or the name that led there.
    pub host: String,
    /// The ports, such as `7466,50800-50899`.
    pub ports: PortRanges,
    /// When they were dialled.
    pub observed_at: Timestamp,
    /// From when on this says nothing any more.
    pub expires_at: Timestamp,
}

impl Document for PortAttestation {
    const TYPE: &'static str = "port-attestation";
}

/// Whose attestations count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AcceptedCheckers<'a> {
    /// Everybody's: the reader judges by the id that it gets.
    #[default]
    Any,
    /// Only these checkers'.
    Only(&'a [KeyId]),
}

/// What an attestation has to be about.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    /// The provider.
    pub provider: KeyId,
    /// The host of its endpoint: an address (IPv6 without brackets) or a name.
    pub host: &'a str,
    /// Ports that all have to be among the attested ones; may be empty.
    pub ports: &'a [u16],
    /// The time.
    pub now: Timestamp,
    /// Whose word counts.
    pub accepted: AcceptedCheckers<'a>,
}

/// What was attested, and by whom; made by [`PortAttestation::verify`] only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attested {
    /// The checker.
    pub checker: KeyId,
    /// What it says.
    pub attestation: PortAttestation,
}

/// Why an attestation does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttestationError {
    /// It is forged, altered or unreadable.
    #[error("the attestation is not genuine: {0}")]
    Document(#[from] DocumentError),
    /// It is about another provider.
    #[error("the attestation is about another provider, {0}")]
    OtherProvider(KeyId),
    /// It is about another host.
    #[error("the attestation is about another host, {}", printable(.0, 80))]
    OtherHost(String),
    /// It is no longer good.
    #[error("the attestation expired at {0}")]
    Expired(Timestamp),
    /// It was made in the future, or promises to be good for too long.
    #[error("the attestation's times are not plausible: observed {0}, expires {1}")]
    Times(Timestamp, Timestamp),
    /// It does not cover a port that it has to.
    #[error("the attestation does not cover port {0}")]
    Port(u16),
    /// The checker's word does not count here.
    #[error("port checker {0} is not among those whose word counts here")]
    Checker(KeyId),
}

impl PortAttestation {
    /// Whether `envelope` shows what `claim` needs.
    ///
    /// ```
    /// use golem_vm_protocol::attestation::{AcceptedCheckers, Claim, PortAttestation};
    /// use golem_vm_protocol::document::Envelope;
    /// use golem_vm_protocol::port_ranges::PortRanges;
    /// use golem_vm_protocol::time::Timestamp;
    /// use golem_vm_protocol::KeyPair;
    ///
    /// let checker = KeyPair::from_secret_bytes([2; 32])?;
    /// let provider = KeyPair::from_secret_bytes([1; 32])?.id();
    /// let now = Timestamp::from_unix_seconds(1_795_221_196);
    /// let word = PortAttestation {
    ///     provider_id: provider,
    ///     host: "192.0.2.1".into(),
    ///     ports: PortRanges::fitting([7466, 50800]),
    ///     observed_at: now,
    ///     expires_at: now.plus(std::time::Duration::from_secs(1800)),
    /// };
    /// let envelope = Envelope::seal(&word, &checker)?;
    /// let accepted = AcceptedCheckers::Any;
    /// let claim = Claim { provider, host: "192.0.2.1", ports: &[7466], now, accepted };
    /// assert_eq!(PortAttestation::verify(&envelope, &claim)?.checker, checker.id());
    /// assert!(PortAttestation::verify(&envelope, &Claim { host: "192.0.2.2", ..claim }).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// See [`AttestationError`]; the signature is checked before anything that it says is used.
    pub fn verify(envelope: &Envelope, claim: &Claim<'_>) -> Result<Attested, AttestationError> {
        if envelope.payload.len() > MAX_PAYLOAD_TEXT {
            return Err(DocumentError::TooLarge.into());
        }
        let verified = envelope.open::<Self>()?;
        let (checker, this) = (verified.signer, verified.content);
        if let AcceptedCheckers::Only(known) = claim.accepted
            && !known.contains(&checker)
        {
            return Err(AttestationError::Checker(checker));
        }
        if this.provider_id != claim.provider {
            return Err(AttestationError::OtherProvider(this.provider_id));
        }
        if !same_host(&this.host, claim.host) {
            return Err(AttestationError::OtherHost(this.host));
        }
        let tolerance = Duration::from_secs(CLOCK_TOLERANCE_SECONDS);
        let longest = Duration::from_secs(MAX_VALIDITY_SECONDS);
        if this.observed_at > claim.now.plus(tolerance)
            || this.expires_at <= this.observed_at
            || this.expires_at > this.observed_at.plus(longest)
        {
            return Err(AttestationError::Times(this.observed_at, this.expires_at));
        }
        if this.expires_at <= claim.now {
            return Err(AttestationError::Expired(this.expires_at));
        }
        match claim.ports.iter().find(|port| !this.ports.contains(**port)) {
            Some(missing) => Err(AttestationError::Port(*missing)),
            None => Ok(Attested { checker, attestation: this }),
        }
    }
}

/// Whether two hosts are the same one, as written: no name is resolved.
#[must_use]
pub fn same_host(one: &str, other: &str) -> bool {
    match (one.parse::<IpAddr>(), other.parse::<IpAddr>()) {
        (Ok(one), Ok(other)) => one.to_canonical() == other.to_canonical(),
        (Err(_), Err(_)) => is_host(one) && one.eq_ignore_ascii_case(other),
        _ => false,
    }
}

#[cfg(test)]
#[path = "attestation/tests.rs"]
mod tests;
