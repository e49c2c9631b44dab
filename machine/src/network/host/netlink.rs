//! The kernel's own word on addresses, routes and rules, and on their changes (netlink, RFC 3549).

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use ipnet::Ipv4Net;
use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send,
    socket_with, sockopt,
};
use tokio::sync::mpsc;

// linux/netlink.h, linux/rtnetlink.h, linux/if_addr.h.
const NLM_F_REQUEST_DUMP: u16 = 0x1 | 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const IFA_ADDRESS: u16 = 1;
const RTA_DST: u16 = 1;
const RTA_GATEWAY: u16 = 5;
const RTA_MULTIPATH: u16 = 9;
const RTA_VIA: u16 = 18;
const RTA_NH_ID: u16 = 30;
const RTN_UNICAST: u8 = 1;
const RTN_LOCAL: u8 = 2;
const AF_INET: u8 = 2;
const MESSAGE_HEADER: usize = 16;
const ADDRESS_HEADER: usize = 8;
const ROUTE_HEADER: usize = 12;
const ATTRIBUTE_HEADER: usize = 4;

/// Groups: IPv4 addresses and routes (RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE).
const ROUTE_GROUPS: u32 = 0x10 | 0x40;
/// Group: rules (NFNLGRP_NFTABLES, the seventh).
const RULE_GROUPS: u32 = 1 << 6;

/// The kernel answers at once.
const DEADLINE: Duration = Duration::from_secs(5);
/// How often a listener looks whether it is still wanted.
const LISTEN: Duration = Duration::from_secs(1);
/// As large as the kernel's own pieces become.
const BUFFER: usize = 64 << 10;

/// A route that is wider than this leads to the internet through a tunnel, not to neighbours.
const WIDEST_ROUTE: u8 = 8;

/// The protocol NETLINK_ROUTE: 0, which a protocol's type does not hold.
const ROUTE: Option<Protocol> = None;

fn open(protocol: Option<Protocol>, groups: u32) -> io::Result<OwnedFd> {
    let socket =
        socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
    bind(&socket, &SocketAddrNetlink::new(0, groups))?;
    Ok(socket)
}

/// Tells when addresses, routes or rules of this network namespace have changed.
#[derive(Debug)]
pub struct Changes {
    changed: mpsc::Receiver<()>,
}

impl Changes {
    /// Begins to listen, in two threads that end soon after this value has.
    ///
    /// # Errors
    /// When the kernel can't be listened to.
    pub fn listen() -> io::Result<Self> {
        // Room for one: several changes are one reason to look.
        let (tell, changed) = mpsc::channel(1);
        for socket in [open(ROUTE, ROUTE_GROUPS)?, open(Some(netlink::NETFILTER), RULE_GROUPS)?] {
            sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(LISTEN))?;
            let tell = tell.clone();
            std::thread::Builder::new()
                .name("netlink".to_owned())
                .spawn(move || listen(&socket, &tell))?;
        }
        Ok(Self { changed })
    }

    /// Waits for a change since the last one. `None` when nothing can be heard any more.
    pub async fn next(&mut self) -> Option<()> {
        self.changed.recv().await
    }
}

fn listen(socket: &OwnedFd, tell: &mpsc::Sender<()>) {
    let mut buffer = vec![0; BUFFER];
    while !tell.is_closed() {
        match recv(socket, &mut buffer[..], RecvFlags::empty()) {
            // What was lost for want of room was a change too.
            Ok(_) | Err(Errno::NOBUFS) => drop(tell.try_send(())),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(error) => {
                tracing::warn!("changes of the network can't be heard any more: {error}");
                return;
            }
        }
    }
}

/// All IPv4 networks that interfaces have an address in, those that routes say are on the link, and what this
/// host takes for itself: its own addresses, wherever they are.
pub(super) fn on_link_networks() -> io::Result<Vec<Ipv4Net>> {
    let mut networks = Vec::new();
    dump(RTM_GETADDR, ADDRESS_HEADER, |kind, body| {
        networks.extend((kind == RTM_NEWADDR).then(|| address_network(body)).flatten());
    })?;
    dump(RTM_GETROUTE, ROUTE_HEADER, |kind, body| {
        networks.extend((kind == RTM_NEWROUTE).then(|| route_network(body)).flatten());
    })?;
    Ok(networks)
}

/// The IPv4 networks in which the interface of that number has an address.
pub(super) fn networks_of(interface: u32) -> io::Result<Vec<Ipv4Net>> {
    let mut networks = Vec::new();
    dump(RTM_GETADDR, ADDRESS_HEADER, |kind, body| {
        let index =
            body.get(4..8).and_then(|bytes| Some(u32::from_ne_bytes(bytes.try_into().ok()?)));
        let is_its = kind == RTM_NEWADDR && index == Some(interface);
        networks.extend(is_its.then(|| address_network(body)).flatten());
    })?;
    Ok(networks)
}

/// Asks for all objects of a kind, and hands each to `take` with the kind of its message.
fn dump(question: u16, header: usize, mut take: impl FnMut(u16, &[u8])) -> io::Result<()> {
    let socket = open(ROUTE, 0)?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(DEADLINE))?;
    let length = MESSAGE_HEADER + header;
    let mut request = vec![0; length];
    request[..4].copy_from_slice(&u32::try_from(length).unwrap_or(0).to_ne_bytes());
    request[4..6].copy_from_slice(&question.to_ne_bytes());
    request[6..8].copy_from_slice(&NLM_F_REQUEST_DUMP.to_ne_bytes());
    request[MESSAGE_HEADER] = AF_INET;
    send(&socket, &request, SendFlags::empty())?;
    let mut buffer = vec![0; BUFFER];
    loop {
        let (received, _) = match recv(&socket, &mut buffer[..], RecvFlags::empty()) {
            Err(Errno::INTR) => continue,
            other => other?,
        };
        for (kind, body) in messages(&buffer[..received]) {
            match kind {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => {
                    return Err(io::Error::other("the kernel refused a question about its routes"));
                }
                kind => take(kind, body),
            }
        }
    }
}

/// The messages in one piece: kind and body. What is cut off is left out.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?)).ok()?;
        let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
        let body = bytes.get(MESSAGE_HEADER..length)?;
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
        Some((kind, body))
    })
}

/// The attributes behind a message's own header: kind and value.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?);
        let value = bytes.get(ATTRIBUTE_HEADER..length)?;
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
        Some((kind, value))
    })
}

const fn aligned(length: usize) -> usize {
    length.div_ceil(4) * 4
}

fn network(address: &[u8], prefix: u8) -> Option<Ipv4Net> {
    let address: [u8; 4] = address.try_into().ok()?;
    Ipv4Net::new(Ipv4Addr::from(address), prefix).ok().map(|network| network.trunc())
}

/// The network of one address (struct ifaddrmsg): of the other end on a point-to-point link.
fn address_network(body: &[u8]) -> Option<Ipv4Net> {
    let (family, prefix) = (*body.first()?, *body.get(1)?);
    let mut attributes = attributes(body.get(ADDRESS_HEADER..)?);
    let (_, address) = attributes.find(|(kind, _)| *kind == IFA_ADDRESS)?;
    (family == AF_INET && prefix > 0).then(|| network(address, prefix)).flatten()
}

/// The network of a route (struct rtmsg) whose hosts are reached without a router, or are this one.
fn route_network(body: &[u8]) -> Option<Ipv4Net> {
    let (family, prefix, kind) = (*body.first()?, *body.get(1)?, *body.get(7)?);
    if family != AF_INET || !matches!(kind, RTN_UNICAST | RTN_LOCAL) || prefix < WIDEST_ROUTE {
        return None;
    }
    let mut destination = None;
    for (attribute, value) in attributes(body.get(ROUTE_HEADER..)?) {
        match attribute {
            RTA_DST => destination = Some(value),
            RTA_GATEWAY | RTA_VIA | RTA_MULTIPATH | RTA_NH_ID => return None,
            _ => {}
        }
    }
    network(destination?, prefix)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = u16::try_from(4 + value.len()).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(aligned(bytes.len()), 0);
        bytes
    }

    fn route(prefix: u8, kind: u8, attributes: &[(u16, [u8; 4])]) -> Vec<u8> {
        let mut body = vec![AF_INET, prefix, 0, 0, 254, 2, 253, kind, 0, 0, 0, 0];
        for (kind, value) in attributes {
            body.extend(attribute(*kind, value));
        }
        body
    }

    #[test]
    fn the_other_end_of_a_link_counts() {
        let mut body = vec![AF_INET, 24, 0, 0, 1, 0, 0, 0];
        body.extend(attribute(2, &[10, 0, 0, 1]));
        body.extend(attribute(IFA_ADDRESS, &[10, 9, 0, 7]));
        assert_eq!(address_network(&body).unwrap().to_string(), "10.9.0.0/24");
    }

    #[test]
    fn routes_over_routers_and_into_tunnels_for_everything_do_not_count() {
        let link = route(24, RTN_UNICAST, &[(RTA_DST, [203, 0, 113, 0])]);
        assert_eq!(route_network(&link).unwrap().to_string(), "203.0.113.0/24");
        let dst = (RTA_DST, [203, 0, 113, 0]);
        let own = route(32, RTN_LOCAL, &[dst]);
        assert_eq!(route_network(&own).unwrap().to_string(), "203.0.113.0/32");
        for other in [
            route(24, RTN_UNICAST, &[dst, (RTA_GATEWAY, [10, 0, 0, 1])]),
            route(24, RTN_UNICAST, &[dst, (RTA_NH_ID, [1, 0, 0, 0])]),
            // What is broadcast to, or thrown away.
            route(24, 3, &[dst]),
            route(24, 6, &[dst]),
            route(0, RTN_UNICAST, &[]),
            route(1, RTN_UNICAST, &[(RTA_DST, [128, 0, 0, 0])]),
        ] {
            assert_eq!(route_network(&other), None);
        }
    }

    #[test]
    fn this_machine_has_a_loopback_network() {
        let networks = on_link_networks().unwrap();
        assert!(networks.contains(&"127.0.0.0/8".parse().unwrap()), "{networks:?}");
    }

    proptest! {
        #[test]
        fn no_bytes_break_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            for (_, body) in messages(&bytes) {
                let _ = (address_network(body), route_network(body));
            }
            let _ = (address_network(&bytes), route_network(&bytes));
        }
    }
}
