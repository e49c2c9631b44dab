//! Who is at the other end of a connection.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::cidr::masked;

/// Where a request over TCP comes from: the peer as the operating system reports it, or, if that is
/// a proxy that the operator trusts, the client that the proxy names (then the port is 0). No other
/// header can change it. IPv4 in the form of IPv6 is shown as IPv4. An extension of every request
/// over TCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerAddr(pub SocketAddr);

/// The process at the other end of a Unix socket. An extension of every request over one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalPeer {
    /// Its user id, where the platform tells.
    pub uid: Option<u32>,
    /// Its process id, where the platform tells.
    pub pid: Option<i32>,
}

/// Either kind of peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// Over TCP.
    Tcp(PeerAddr),
    /// Over a Unix socket.
    Local(LocalPeer),
}

impl Peer {
    /// A peer over TCP.
    #[must_use]
    pub fn tcp(address: SocketAddr) -> Self {
        Self::Tcp(PeerAddr(SocketAddr::new(address.ip().to_canonical(), address.port())))
    }

    /// What limits are counted by: the IPv4 address, or the IPv6 /64 (one subscriber usually has
    /// at least that many addresses). `None` for peers that are not counted: processes of this
    /// machine, which come from 127.0.0.1 or ::1. (The rest of 127.0.0.0/8 is counted.)
    #[must_use]
    pub fn bucket(&self) -> Option<IpAddr> {
        match self {
            Self::Local(_) => None,
            Self::Tcp(PeerAddr(address)) => match address.ip() {
                IpAddr::V4(Ipv4Addr::LOCALHOST) | IpAddr::V6(Ipv6Addr::LOCALHOST) => None,
                ip @ IpAddr::V4(_) => Some(ip),
                ip @ IpAddr::V6(_) => Some(masked(ip, 64)),
            },
        }
    }
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(PeerAddr(address)) => address.fmt(f),
            Self::Local(LocalPeer { pid: Some(pid), .. }) => write!(f, "local process {pid}"),
            Self::Local(_) => f.write_str("local process"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn addresses_are_counted_by_what_one_subscriber_has() {
        let bucket =
            |text: &str| Peer::tcp(text.parse().unwrap()).bucket().map(|ip| ip.to_string());
        assert_eq!(bucket("192.0.2.1:5").as_deref(), Some("192.0.2.1"));
        assert_eq!(bucket("[::ffff:192.0.2.1]:5").as_deref(), Some("192.0.2.1"));
        assert_eq!(bucket("[2001:db8:1:2:3:4:5:6]:5").as_deref(), Some("2001:db8:1:2::"));
        assert_eq!(bucket("127.0.0.1:5"), None);
        assert_eq!(bucket("127.0.0.2:5").as_deref(), Some("127.0.0.2"));
        assert_eq!(bucket("[::1]:5"), None);
    }
}
