//! What a machine's addresses are: pure.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::Mac;

/// The network card of every machine's gateway. It is the same for all, so that what a guest remembers of its
/// gateway stays true when it is resumed elsewhere.
pub const GATEWAY_MAC: Mac = Mac([0x02, 0x67, 0x6f, 0x6c, 0x65, 0x6d]);

/// Bytes in the largest packet between a guest and its gateway.
pub const MTU: u16 = 1500;

/// The network of the uplink, in every machine's namespace the same: of the range for benchmarks (RFC 2544),
/// which no LAN uses and which is never opened for guests.
pub const UPLINK_NETWORK: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(198, 18, 0, 0), 24);
/// The namespace's own address in it; slirp4netns gives it the hundredth.
pub const UPLINK_ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 100);
/// Where slirp4netns answers questions for names, by asking the host's resolver.
pub const UPLINK_RESOLVER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 3);
/// Whom every guest asks for names, wherever it is resumed; the namespace hands its questions on.
pub const RESOLVER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 53);

/// The addresses of one machine. Kept with the machine: how they are derived may change, and they may not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addressing {
    /// The guest's network card.
    pub mac: Mac,
    /// The guest, in its own network, where nobody else is but the gateway.
    pub guest: Ipv4Addr,
    /// Bits of that network: 30.
    pub prefix: u8,
    /// Where everything leaves.
    pub gateway: Ipv4Addr,
    /// Whom the guest asks for names: stays when the host's resolvers change.
    pub resolver: Ipv4Addr,
    /// The host's loopback address at which the guest's SSH server is reached.
    pub entrance: Ipv4Addr,
}

impl Addressing {
    /// Those of the machine with that id.
    #[must_use]
    pub fn of(id: &[u8; 16]) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"golem machine network 1\n");
        hash.update(id);
        let [a, b, c, m1, m2, m3, m4, m5, x, y, z, ..]: [u8; 32] = hash.finalize().into();
        let network = c & !3;
        let gateway = Ipv4Addr::new(10, a, b, network + 1);
        Self {
            mac: Mac([0x02, m1, m2, m3, m4, m5]),
            guest: Ipv4Addr::new(10, a, b, network + 2),
            prefix: 30,
            gateway,
            resolver: RESOLVER,
            // Not 127.0.0.0/16, where programs of the host listen; neither first nor last of a /24.
            entrance: Ipv4Addr::new(127, 1 + x % 254, y, 1 + z % 254),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_id_has_the_same_addresses_for_ever() {
        let of = Addressing::of(&[7; 16]);
        let json = r#"{"mac":"02:12:9e:b4:a3:4e","guest":"10.242.212.170","prefix":30,"gateway":"10.242.212.169","resolver":"198.18.0.53","entrance":"127.82.99.96"}"#;
        let kept: Addressing = serde_json::from_str(json).unwrap();
        assert_eq!(of, kept, "{}", serde_json::to_string(&of).unwrap());
    }

    #[test]
    fn machines_have_addresses_of_their_own() {
        let all: Vec<_> = (0..=255u8).map(|one| Addressing::of(&[one; 16])).collect();
        let distinct = |of: fn(&Addressing) -> String| all.iter().map(of).collect::<BTreeSet<_>>();
        assert_eq!(distinct(|one| one.mac.to_string()).len(), 256);
        assert_eq!(distinct(|one| one.guest.to_string()).len(), 256);
        assert_eq!(distinct(|one| one.entrance.to_string()).len(), 256);
    }

    proptest! {
        #[test]
        fn addresses_fit_together(id in any::<[u8; 16]>()) {
            let one = Addressing::of(&id);
            let network = Ipv4Net::new(one.guest, one.prefix).unwrap().trunc();
            prop_assert!(network.contains(&one.gateway) && one.gateway != one.guest);
            for host in [one.gateway, one.guest] {
                prop_assert!(host != network.network() && host != network.broadcast());
            }
            prop_assert!(one.entrance.is_loopback() && one.entrance.octets()[1] != 0);
            prop_assert!(!UPLINK_NETWORK.contains(&one.guest));
            // Of this machine alone, and of one card (IEEE 802: locally administered, not a group).
            prop_assert_eq!(one.mac.0[0] & 0b11, 0b10);
            prop_assert_ne!(one.mac, GATEWAY_MAC);
        }
    }
}
