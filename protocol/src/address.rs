//! Which addresses are the world's, which are somebody's own network, and which are nobody's.
//!
//! Sources: the IANA registries of special-purpose IPv4 and IPv6 addresses (RFC 6890), and for
//! addresses that carry an IPv4 address inside: RFC 4291 2.5.5 (mapped, compatible), RFC 3056
//! (6to4), RFC 6052 and RFC 8215 (NAT64), RFC 4380 (Teredo).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// How far an address reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AddressScope {
    /// The same machine for everybody. The ranges for documentation count as well: nothing that
    /// matters is there, and they play the internet in tests.
    World,
    /// One network's own: private ranges, carriers' NAT, unique local addresses, benchmarks.
    LocalNetwork,
    /// The machine itself.
    ThisHost,
    /// Never a peer to connect to: unspecified, link-local (cloud metadata services live there),
    /// multicast, broadcast, reserved, tunnels.
    Never,
}

impl AddressScope {
    /// The scope of `address`. An IPv6 address that carries an IPv4 address reaches no farther than that one.
    ///
    /// ```
    /// use golem_vm_protocol::address::AddressScope;
    ///
    /// let of = |text: &str| AddressScope::of(text.parse().unwrap());
    /// assert_eq!(of("198.51.100.7"), AddressScope::World);
    /// assert_eq!(of("::ffff:10.0.0.1"), AddressScope::LocalNetwork);
    /// assert_eq!(of("2002:7f00:1::1"), AddressScope::ThisHost);
    /// assert_eq!(of("169.254.169.254"), AddressScope::Never);
    /// ```
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => of_v4(v4),
            IpAddr::V6(v6) => of_v6(v6),
        }
    }
}

fn of_v4(address: Ipv4Addr) -> AddressScope {
    match address.octets() {
        [127, ..] => AddressScope::ThisHost,
        // RFC 1918; RFC 6598 (carriers' NAT); RFC 2544 (benchmarks).
        [10, ..]
        | [172, 16..=31, ..]
        | [192, 168, ..]
        | [100, 64..=127, ..]
        | [198, 18..=19, ..] => AddressScope::LocalNetwork,
        // "This network"; link-local; IETF assignments; the old 6to4 relays; multicast, reserved, broadcast.
        [0, ..] | [169, 254, ..] | [192, 0, 0, _] | [192, 88, 99, _] | [224..=255, ..] => {
            AddressScope::Never
        }
        _ => AddressScope::World,
    }
}

fn of_v6(address: Ipv6Addr) -> AddressScope {
    let segments = address.segments();
    let embedded = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        of_v4(Ipv4Addr::new(a, b, c, d))
    };
    match segments {
        [0, 0, 0, 0, 0, 0, 0, 0] => AddressScope::Never,
        [0, 0, 0, 0, 0, 0, 0, 1] => AddressScope::ThisHost,
        // IPv4-compatible and -mapped, SIIT, and the well-known NAT64 prefix.
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => embedded(high, low),
        [0x2002, high, low, ..] => embedded(high, low),
        // Teredo and the other IETF assignments (ORCHID, benchmarks).
        [0x2001, 0..=0x1ff, ..] => AddressScope::Never,
        // Unique local, and the site-local ones that they replaced.
        [0xfc00..=0xfdff | 0xfec0..=0xfeff, ..] => AddressScope::LocalNetwork,
        // A network's own NAT64 prefix.
        [0x64, 0xff9b, 1, ..] => AddressScope::LocalNetwork,
        // Global unicast is 2000::/3; the rest is link-local, multicast or nobody's.
        [0x2000..=0x3fff, ..] => AddressScope::World,
        _ => AddressScope::Never,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn all(scope: AddressScope, addresses: &[&str]) {
        for text in addresses {
            assert_eq!(AddressScope::of(text.parse().unwrap()), scope, "{text}");
        }
    }

    #[test]
    fn every_range_has_its_scope() {
        all(
            AddressScope::World,
            &[
                "1.1.1.1",
                "100.63.0.1",
                "100.128.0.1",
                "172.15.0.1",
                "172.32.0.1",
                "192.0.1.1",
                "192.0.2.1",
            ],
        );
        all(
            AddressScope::World,
            &["203.0.113.9", "223.255.255.255", "2606:4700::1", "2001:db8::1"],
        );
        all(
            AddressScope::LocalNetwork,
            &[
                "10.255.0.1",
                "172.16.0.1",
                "172.31.255.255",
                "192.168.0.1",
                "100.64.0.1",
                "100.127.255.255",
            ],
        );
        all(AddressScope::LocalNetwork, &["198.18.0.1", "fc00::1", "fdff::1", "fec0::1"]);
        all(AddressScope::ThisHost, &["127.0.0.1", "127.255.255.255", "::1"]);
        all(
            AddressScope::Never,
            &[
                "0.0.0.0",
                "0.1.2.3",
                "169.254.169.254",
                "192.0.0.192",
                "192.88.99.1",
                "224.0.0.1",
                "240.0.0.1",
            ],
        );
        all(
            AddressScope::Never,
            &[
                "255.255.255.255",
                "::",
                "fe80::1",
                "febf::1",
                "ff02::1",
                "100::1",
                "2001::1",
                "2001:20::1",
                "4000::1",
            ],
        );
    }

    #[test]
    fn an_address_inside_an_address_reaches_no_farther() {
        all(
            AddressScope::ThisHost,
            &["::ffff:127.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::5"],
        );
        all(
            AddressScope::LocalNetwork,
            &["::ffff:10.0.0.1", "::ffff:0:10.0.0.1", "64:ff9b::192.168.0.1"],
        );
        all(AddressScope::LocalNetwork, &["2002:a00:1::", "64:ff9b:1::1.1.1.1"]);
        all(
            AddressScope::Never,
            &["::ffff:169.254.169.254", "2002:a9fe:a9fe::1", "64:ff9b::169.254.169.254"],
        );
        // Teredo carries its addresses disguised.
        all(AddressScope::Never, &["2001:0:1.1.1.1:0:0:1"].map(|_| "2001:0:101:101::1"));
        all(AddressScope::World, &["::ffff:1.1.1.1", "64:ff9b::1.1.1.1", "2002:101:101::1"]);
    }
}
