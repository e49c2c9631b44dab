//! Who is at the other end of a connection.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// The address of a TCP peer, as the operating system reports it; no header can change it. An
/// IPv4 peer of a dual-stack socket is shown as IPv4. An extension of every request over TCP.
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
    /// at least that many addresses). `None` for peers that are not counted: local processes.
    #[must_use]
    pub fn bucket(&self) -> Option<IpAddr> {
        match self {
            Self::Local(_) => None,
            Self::Tcp(PeerAddr(address)) => match address.ip() {
                ip if ip.is_loopback() => None,
                IpAddr::V4(ip) => Some(IpAddr::V4(ip)),
                IpAddr::V6(ip) => {
                    Some(IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX))))
                }
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
        assert_eq!(bucket("[::1]:5"), None);
    }
}
