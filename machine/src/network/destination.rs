//! Destinations that the owner opens for guests, although they are in a blocked range.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use ipnet::Ipv4Net;

/// The widest network that can be opened: a /8. What is wider is the internet, or everything.
const WIDEST_PREFIX: u8 = 8;

/// A network, and the one port of it that is opened, or all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Destination {
    /// The network, its host bits zero.
    pub network: Ipv4Net,
    /// The TCP and UDP port; `None` opens every port and protocol.
    pub port: Option<u16>,
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.network)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl FromStr for Destination {
    type Err = String;

    /// `10.0.0.5`, `10.0.0.0/24`, `10.0.0.5:443` or `10.0.0.0/24:443`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (network, port) = match text.split_once(':') {
            Some((network, port)) => (network, Some(port)),
            None => (text, None),
        };
        let port = port
            .map(|port| match port.parse::<u16>() {
                Ok(0) | Err(_) => Err(format!("'{port}' is not a port (1 to 65535)")),
                Ok(port) => Ok(port),
            })
            .transpose()?;
        let (address, prefix) = network.split_once('/').unwrap_or((network, "32"));
        let address: Ipv4Addr = address.parse().map_err(|_| {
            format!(
                "'{address}' is not an IPv4 address (guests have no IPv6); write 10.0.0.5, \
                 10.0.0.0/24 or 10.0.0.5:443"
            )
        })?;
        let prefix: u8 = prefix
            .parse()
            .ok()
            .filter(|bits| (WIDEST_PREFIX..=32).contains(bits))
            .ok_or_else(|| format!("'/{prefix}' has to be from /{WIDEST_PREFIX} to /32"))?;
        let network = Ipv4Net::new(address, prefix).map_err(|error| error.to_string())?;
        if network.addr() != network.network() {
            return Err(format!(
                "'{network}' has bits beyond its prefix; write {}",
                network.trunc()
            ));
        }
        Ok(Self { network, port })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn networks_and_ports_are_read_and_written() {
        for (text, canonical) in [
            ("10.0.0.5", "10.0.0.5/32"),
            ("10.0.0.0/24", "10.0.0.0/24"),
            ("10.0.0.5:443", "10.0.0.5/32:443"),
            ("192.168.0.0/16:53", "192.168.0.0/16:53"),
        ] {
            let destination: Destination = text.parse().unwrap();
            assert_eq!(destination.to_string(), canonical);
            assert_eq!(canonical.parse::<Destination>().unwrap(), destination);
        }
    }

    #[test]
    fn what_opens_more_than_it_says_is_refused() {
        for bad in [
            "",
            "0.0.0.0/0",
            "10.0.0.0/7",
            "10.0.0.1/24",
            "10.0.0.0/33",
            "10.0.0.5:0",
            "10.0.0.5:",
            "10.0.0.5:65536",
            "fd00::1",
            "[fd00::1]:443",
            "example.org",
            "10.0.0.5:443:1",
            "10.0.0.5;",
            "10.0.0.0/24/24",
            " 10.0.0.5",
        ] {
            assert!(bad.parse::<Destination>().is_err(), "{bad}");
        }
    }
}
