//! What a port checker is asked, and answers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::KeyId;
use crate::document::Envelope;

/// Most ports in one request.
pub const MAX_PORTS: usize = 1024;

/// `POST /api/v1/port-checks`: which of these ports are the caller's? The caller is the key that
/// signed the request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttestedCheckRequest {
    /// Where to dial: an address, or a name that leads to it. Without it, the address that the
    /// request comes from. For another address than that one, the first port has to be proven
    /// before any other is dialled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The ports to dial, 1 to 65535, at most [`MAX_PORTS`].
    pub ports: Vec<u16>,
}

/// The answer to an [`AttestedCheckRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttestedCheckResponse {
    /// What was asked about, as it stands in the attestation.
    pub host: String,
    /// The address that was dialled.
    pub address: String,
    /// The address that the request came from.
    pub observed_address: String,
    /// Who checked.
    pub checker_id: KeyId,
    /// By port number.
    pub results: BTreeMap<u16, ProofResult>,
    /// The checker's signed word about the ports that were proven
    /// ([`PortAttestation`](crate::attestation::PortAttestation)); absent when none was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attestation: Option<Envelope>,
}

/// What was found at one port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProofResult {
    /// Whether the caller's key answered there.
    pub proven: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<NotProven>,
    /// The same in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl ProofResult {
    /// The caller's key answered.
    #[must_use]
    pub const fn proven() -> Self {
        Self { proven: true, cause: None, detail: None }
    }

    /// It did not.
    pub fn not_proven(cause: NotProven, detail: impl Into<String>) -> Self {
        Self { proven: false, cause: Some(cause), detail: Some(detail.into()) }
    }
}

/// Why a port counts as not proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NotProven {
    /// No connection in time: a firewall drops the packets.
    NoAnswer,
    /// The connection was refused.
    Refused,
    /// Something listens there and gave no proof.
    NoProof,
    /// A proof that is not for this check: another provider's, or an old or altered one.
    WrongProof,
    /// It was not looked at, because the checker is busy.
    NotTried,
    /// Anything else, such as a network that can't be reached.
    #[serde(other)]
    Other,
}

/// `POST /check-ports`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckPortsRequest {
    /// The address to dial. A signed caller may leave it out: its own address is dialled, and no
    /// other one would be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_ip: Option<String>,
    /// The ports to dial, 1 to 65535.
    #[serde(deserialize_with = "lenient_ports")]
    pub ports: Vec<i64>,
}

/// What was found at one port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortResult {
    /// Whether a connection was accepted.
    pub accessible: bool,
    /// Why not.
    pub error: Option<String>,
}

/// The answer to a [`CheckPortsRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckPortsResponse {
    /// Whether at least one port was reachable.
    pub success: bool,
    /// By port number.
    pub results: BTreeMap<u16, PortResult>,
    /// A sentence that counts.
    pub message: String,
    /// The address that was dialled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checked_address: Option<String>,
    /// The address that the request came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_address: Option<String>,
    /// Who checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checker_id: Option<KeyId>,
    /// Whether the caller was unsigned, so that any program may have answered at the ports.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub plain: bool,
}

/// Port numbers, `22` and `"22"` alike, of any size: the range is checked with a better sentence.
fn lenient_ports<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<i64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Port {
        Number(i64),
        Text(String),
    }
    Vec::<Port>::deserialize(deserializer)?
        .into_iter()
        .map(|port| match port {
            Port::Number(number) => Ok(number),
            Port::Text(text) => text
                .trim()
                .parse()
                .map_err(|_| serde::de::Error::custom("value is not a valid integer")),
        })
        .collect()
}

impl CheckPortsRequest {
    /// The ports as numbers, in the order given, doubles included.
    ///
    /// # Errors
    /// The first number that is not a port.
    pub fn valid_ports(&self) -> Result<Vec<u16>, i64> {
        self.ports
            .iter()
            .map(|port| u16::try_from(*port).ok().filter(|port| *port != 0).ok_or(*port))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ports_are_read_as_the_original_reads_them() {
        let read = |json: &str| serde_json::from_str::<CheckPortsRequest>(json);
        let request = read(r#"{"provider_ip":"127.0.0.1","ports":[50800,"22",22]}"#).unwrap();
        assert_eq!(request.valid_ports().unwrap(), [50800, 22, 22]);
        assert_eq!(read(r#"{"ports":[1,0]}"#).unwrap().valid_ports(), Err(0));
        assert_eq!(read(r#"{"ports":[65536]}"#).unwrap().valid_ports(), Err(65536));
        assert!(read(r#"{"ports":["x"]}"#).is_err());
    }
}
