//! Who vouches for a provider's ports: port checkers that had its key answer there, and signed that.
//!
//! The provider's own word on it (`port_check`) counts for nothing here: anybody can write that.

use std::time::Duration;

use golem_vm_protocol::KeyId;
use golem_vm_protocol::advertisement::Advertisement;
use golem_vm_protocol::attestation::{AcceptedCheckers, Attested, Claim, PortAttestation};
use golem_vm_protocol::text::printable;
use golem_vm_protocol::time::Timestamp;
use serde_json::{Value, json};

/// What port checkers say of one provider.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Vouched {
    /// The words that count, the latest first.
    pub by: Vec<Attested>,
    /// Genuine words of checkers that are not among the trusted ones.
    pub untrusted: Vec<Attested>,
    /// What is wrong with the others: forged, expired, about somebody or something else.
    pub ignored: Vec<String>,
}

impl Vouched {
    /// What the attestations of an advertisement come to. Without `trusted` checkers everybody's word
    /// counts, and it is shown whose it is.
    #[must_use]
    pub fn of(advertisement: &Advertisement, trusted: &[KeyId], now: Timestamp) -> Self {
        let mut this = Self::default();
        let Some((api, ssh_host)) = advertisement.direct_endpoint() else { return this };
        let Some(port) = api.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok()) else {
            return this;
        };
        let claim = Claim {
            provider: advertisement.provider_id,
            host: ssh_host,
            ports: &[port],
            now,
            accepted: AcceptedCheckers::Any,
        };
        for envelope in &advertisement.attestations {
            match PortAttestation::verify(envelope, &claim) {
                // The API's port alone is no port for a VM.
                Ok(attested) if attested.attestation.ports.count() < 2 => {
                    this.ignored.push("it covers no port for VMs".to_owned());
                }
                Ok(attested) if trusted.is_empty() || trusted.contains(&attested.checker) => {
                    this.by.push(attested);
                }
                Ok(attested) => this.untrusted.push(attested),
                Err(error) => this.ignored.push(printable(&error.to_string(), 300)),
            }
        }
        for words in [&mut this.by, &mut this.untrusted] {
            words.sort_by_key(|word| std::cmp::Reverse(word.attestation.observed_at));
            // One checker is one, however often it signs.
            let mut seen = Vec::new();
            words.retain(|word| {
                !seen.contains(&word.checker) && {
                    seen.push(word.checker);
                    true
                }
            });
        }
        this
    }

    /// Whether anybody whose word counts vouches for the ports.
    #[must_use]
    pub fn is_verified(&self) -> bool {
        !self.by.is_empty()
    }

    /// `verified 2 min ago by 9wm1eqn4wddi`.
    #[must_use]
    pub fn short(&self, now: Timestamp) -> String {
        let Some(last) = self.by.first() else { return "unverified".to_owned() };
        let ago = span(now.since(last.attestation.observed_at));
        let more = match self.by.len() {
            1 => String::new(),
            several => format!(" and {} more", several - 1),
        };
        format!("verified {ago} ago by {}{more}", last.checker.short())
    }

    /// The same for programs, with every word.
    #[must_use]
    pub fn json(&self) -> Value {
        let word = |attested: &Attested, trusted: bool| {
            let PortAttestation { host, ports, observed_at, expires_at, .. } =
                &attested.attestation;
            json!({
                "checker": attested.checker, "counts": trusted, "host": host, "ports": ports,
                "observed_at": observed_at, "expires_at": expires_at,
            })
        };
        let all = self.by.iter().map(|attested| word(attested, true));
        let all = all.chain(self.untrusted.iter().map(|attested| word(attested, false)));
        json!({
            "verified": self.is_verified(),
            "by": all.collect::<Vec<_>>(),
            "ignored": self.ignored,
        })
    }
}

fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..7200 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3600),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use golem_vm_protocol::KeyPair;
    use golem_vm_protocol::document::Envelope;
    use golem_vm_protocol::port_ranges::PortRanges;

    use super::super::tests::candidate;
    use super::*;

    fn key(byte: u8) -> KeyPair {
        KeyPair::from_secret_bytes([byte; 32]).unwrap()
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_unix_seconds(1_795_254_000 + seconds)
    }

    fn word() -> PortAttestation {
        PortAttestation {
            provider_id: key(1).id(),
            host: "127.0.0.1".into(),
            ports: PortRanges::fitting([7466, 50_800]),
            observed_at: at(0),
            expires_at: at(1800),
        }
    }

    fn vouched(envelopes: Vec<Envelope>, trusted: &[KeyId]) -> Vouched {
        let with = candidate(1, |advertisement| advertisement.attestations = envelopes);
        Vouched::of(&with.advertisement, trusted, at(130))
    }

    fn sealed(word: &PortAttestation, by: u8) -> Envelope {
        Envelope::seal(word, &key(by)).unwrap()
    }

    #[test]
    fn it_is_shown_who_verified_and_when() {
        let earlier = PortAttestation { observed_at: at(0), ..word() };
        let later = PortAttestation { observed_at: at(5), ..word() };
        let all = vec![sealed(&earlier, 8), sealed(&later, 9), sealed(&earlier, 9)];
        let both = vouched(all.clone(), &[]);
        assert!(both.is_verified());
        let expected = format!("verified 2 min ago by {} and 1 more", key(9).id().short());
        assert_eq!(both.short(at(130)), expected);
        let one = vouched(all.clone(), &[key(8).id()]);
        assert_eq!(one.short(at(130)), format!("verified 2 min ago by {}", key(8).id().short()));
        assert_eq!(one.json()["by"][1]["counts"], json!(false));
        let none = vouched(all, &[key(7).id()]);
        assert_eq!((none.is_verified(), none.short(at(130))), (false, "unverified".to_owned()));
    }

    #[test]
    fn forged_and_foreign_words_count_for_nothing_and_are_named() {
        let forged = Envelope { keyid: key(9).id(), ..sealed(&word(), 8) };
        let foreign = PortAttestation { provider_id: key(2).id(), ..word() };
        let elsewhere = PortAttestation { host: "192.0.2.1".into(), ..word() };
        let expired = PortAttestation { expires_at: at(100), ..word() };
        let no_api = PortAttestation { ports: PortRanges::fitting([50_800]), ..word() };
        let no_vm = PortAttestation { ports: PortRanges::fitting([7466]), ..word() };
        for (envelope, said) in [
            (forged, "not genuine"),
            (sealed(&foreign, 9), "another provider"),
            (sealed(&elsewhere, 9), "another host, 192.0.2.1"),
            (sealed(&expired, 9), "expired"),
            (sealed(&no_api, 9), "does not cover port 7466"),
            (sealed(&no_vm, 9), "no port for VMs"),
        ] {
            let vouched = vouched(vec![envelope], &[]);
            assert!(!vouched.is_verified(), "{said}");
            assert!(vouched.ignored[0].contains(said), "{:?}", vouched.ignored);
        }
        // The provider's own word alone.
        assert!(!vouched(Vec::new(), &[]).is_verified());
    }
}
