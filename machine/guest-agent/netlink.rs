//! The kernel's routing socket (netlink, RFC 3549; rtnetlink(7)): a program that does the same takes an emulated guest
//! longer to start than all of it takes.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Ipv4Addr;

use crate::kernel;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_SETLINK: u16 = 19;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
/// NLM_F_CREATE and NLM_F_REPLACE.
const SET: u16 = 0x400 | 0x100;
const IFLA_ADDRESS: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const AF_UNSPEC: u8 = 0;
const AF_INET: u8 = 2;
const IFF_UP: u32 = 1;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_BOOT: u8 = 3;
const RTN_UNICAST: u8 = 1;
/// The gateway is taken to be on the link.
const RTNH_F_ONLINK: u32 = 4;
const HEADER: usize = 16;
const EADDRNOTAVAIL: i32 = 99;

/// As large as the kernel's own pieces become.
const BUFFER: usize = 32 << 10;

/// What an interface becomes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    /// The kernel's number of it.
    pub(crate) index: u32,
    pub(crate) mac: [u8; 6],
    pub(crate) address: Ipv4Addr,
    pub(crate) prefix: u8,
    pub(crate) gateway: Ipv4Addr,
}

impl Link {
    /// Gives the interface this hardware address, this address in place of all that it has, and the default route.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn take(&self) -> io::Result<()> {
        let mut kernel = Conversation(kernel::route_socket()?);
        kernel.order(RTM_SETLINK, 0, &self.link())?;
        for address in kernel.addresses_of(self.index)? {
            match kernel.order(RTM_DELADDR, 0, &address) {
                // It went with another one that it depended on.
                Err(error) if error.raw_os_error() == Some(EADDRNOTAVAIL) => {}
                other => other?,
            }
        }
        kernel.order(RTM_NEWADDR, SET, &self.address())?;
        kernel.order(RTM_NEWROUTE, SET, &self.default_route())
    }

    /// struct ifinfomsg, and the hardware address.
    fn link(&self) -> Vec<u8> {
        let mut body = vec![AF_UNSPEC, 0, 0, 0];
        body.extend(self.index.to_ne_bytes());
        body.extend(IFF_UP.to_ne_bytes());
        body.extend(IFF_UP.to_ne_bytes());
        attribute(&mut body, IFLA_ADDRESS, &self.mac);
        body
    }

    /// struct ifaddrmsg, and the address.
    fn address(&self) -> Vec<u8> {
        let mut body = vec![AF_INET, self.prefix, 0, 0];
        body.extend(self.index.to_ne_bytes());
        attribute(&mut body, IFA_LOCAL, &self.address.octets());
        attribute(&mut body, IFA_ADDRESS, &self.address.octets());
        body
    }

    /// struct rtmsg, and the gateway.
    fn default_route(&self) -> Vec<u8> {
        let mut body = vec![AF_INET, 0, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, 0, RTN_UNICAST];
        body.extend(RTNH_F_ONLINK.to_ne_bytes());
        attribute(&mut body, RTA_OIF, &self.index.to_ne_bytes());
        attribute(&mut body, RTA_GATEWAY, &self.gateway.octets());
        body
    }
}

/// One question or order at a time. The kernel has answered when it has taken the request.
struct Conversation(File);

impl Conversation {
    /// Has something done.
    fn order(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        self.0.write_all(&message(kind, NLM_F_REQUEST | NLM_F_ACK | flags, body))?;
        self.replies(|_, _| {})
    }

    /// All addresses of an interface, as the kernel describes them.
    fn addresses_of(&mut self, index: u32) -> io::Result<Vec<Vec<u8>>> {
        self.0.write_all(&message(RTM_GETADDR, NLM_F_REQUEST | NLM_F_DUMP, &[AF_UNSPEC; 8]))?;
        let mut found = Vec::new();
        self.replies(|kind, body| {
            if kind == RTM_NEWADDR && body.get(4..8) == Some(&index.to_ne_bytes()) {
                found.push(body.to_vec());
            }
        })?;
        Ok(found)
    }

    /// Reads until the answer ends.
    fn replies(&mut self, mut each: impl FnMut(u16, &[u8])) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        loop {
            let received = self.0.read(&mut buffer)?;
            for (kind, body) in messages(&buffer[..received]) {
                match kind {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => return outcome(body),
                    kind => each(kind, body),
                }
            }
        }
    }
}

/// struct nlmsgerr: 0 is an acknowledgement.
fn outcome(body: &[u8]) -> io::Result<()> {
    let code = body.get(..4).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    match code {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code.wrapping_neg())),
        None => Err(io::Error::other("an answer of the kernel was cut off")),
    }
}

fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    // Bodies are some tens of bytes.
    let length = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend(body);
    bytes
}

fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    body.extend(length.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// The messages in one piece: kind and body.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?)).ok()?;
        let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
        let body = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: Link = Link {
        index: 7,
        mac: [2, 0, 0, 0xaa, 0xbb, 0xcc],
        address: Ipv4Addr::new(10, 9, 0, 100),
        prefix: 30,
        gateway: Ipv4Addr::new(10, 9, 0, 101),
    };

    #[test]
    fn what_is_sent_is_laid_out_as_the_kernel_has_it() {
        assert_eq!((LINK.link().len(), LINK.address().len()), (16 + 12, 8 + 8 + 8));
        assert_eq!(LINK.default_route().len(), 12 + 8 + 8);
        let bytes = message(RTM_NEWADDR, SET, &LINK.address());
        let all: Vec<_> = messages(&bytes).collect();
        assert_eq!(all, [(RTM_NEWADDR, LINK.address().as_slice())]);
        assert_eq!(messages(&bytes[..bytes.len() - 1]).count(), 0);
    }

    #[test]
    fn the_kernel_tells_addresses_and_refuses_what_it_has_not() {
        let mut kernel = Conversation(kernel::route_socket().expect("a socket"));
        let loopback = kernel.addresses_of(1).expect("an answer");
        assert!(
            loopback.iter().any(|body| body.windows(4).any(|four| four == [127, 0, 0, 1])),
            "{loopback:?}"
        );
        let nowhere = Link { index: u32::MAX >> 1, ..LINK };
        assert!(nowhere.take().is_err());
        // What is refused ends with its answer: the next question has its own.
        assert!(kernel.order(RTM_DELADDR, 0, &nowhere.address()).is_err());
        assert_eq!(kernel.addresses_of(1).expect("an answer"), loopback);
    }
}
