//! Ranges of addresses as people write them: `192.0.2.0/24`, `2001:db8::/32`, or one address.

use std::net::{IpAddr, Ipv6Addr};

/// A range of addresses. IPv4 addresses that are written as IPv6 count as IPv4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cidr {
    network: IpAddr,
    bits: u8,
}

impl Cidr {
    /// The range of the first `bits` of `address` (at most 32, of IPv6 128).
    #[must_use]
    pub fn around(address: IpAddr, bits: u8) -> Self {
        let address = address.to_canonical();
        let bits = bits.min(if address.is_ipv4() { 32 } else { 128 });
        Self { network: masked(address, bits), bits }
    }

    /// Whether `address` lies in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.network.is_ipv4() && masked(address, self.bits) == self.network
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.network, self.bits)
    }
}

impl std::str::FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, bits) =
            text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let network = address
            .parse::<IpAddr>()
            .map_err(|_| "write an address (192.0.2.1) or a range (192.0.2.0/24)".to_owned())?;
        let most = if network.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            None => most,
            Some(bits) => bits
                .parse::<u8>()
                .ok()
                .filter(|number| *number <= most && number.to_string() == bits)
                .ok_or_else(|| format!("behind the / stands a number from 0 to {most}"))?,
        };
        // `::ffff:192.0.2.0/120` is the IPv4 range 192.0.2.0/24.
        let (network, bits) = match network.to_canonical() {
            IpAddr::V4(v4) if most == 128 && bits >= 96 => (IpAddr::V4(v4), bits - 96),
            IpAddr::V4(_) if most == 128 => (network, bits),
            canonical => (canonical, bits),
        };
        let whole = masked(network, bits);
        if whole != network {
            return Err(format!("the range would begin at {whole}: write {whole}/{bits}"));
        }
        Ok(Self { network, bits })
    }
}

/// `address` with all but its first `bits` cleared.
pub(super) fn masked(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            IpAddr::V4((v4.to_bits() & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ranges_hold_what_they_say() {
        let inside = |range: &str, address: &str| {
            range.parse::<Cidr>().unwrap().contains(address.parse().unwrap())
        };
        assert!(inside("192.0.2.0/24", "192.0.2.255") && !inside("192.0.2.0/24", "192.0.3.0"));
        assert!(inside("192.0.2.1", "::ffff:192.0.2.1") && !inside("192.0.2.1", "192.0.2.2"));
        assert!(inside("::ffff:192.0.2.0/120", "192.0.2.9"));
        assert!(
            inside("2001:db8::/32", "2001:db8:ffff::1") && !inside("2001:db8::/32", "192.0.2.1")
        );
        assert!(inside("0.0.0.0/0", "255.255.255.255") && !inside("0.0.0.0/0", "::1"));
        assert!(inside("::/0", "::1") && !inside("::/0", "127.0.0.1"));
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for bad in ["", "x", "192.0.2.0/33", "192.0.2.0/", "192.0.2.0/+8", "::/129", "192.0.2.1/24"]
        {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
        assert!("192.0.2.1/24".parse::<Cidr>().unwrap_err().contains("192.0.2.0/24"));
    }
}
