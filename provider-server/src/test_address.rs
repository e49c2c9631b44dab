//! Addresses for tests that need ports of their own.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};

/// Whoever holds this UDP port of a loopback address has that address.
const CLAIM: u16 = 50_001;

/// A loopback address that no other test has, in this process or another, so that its free ports stay
/// free. It is kept until the process ends.
pub(crate) fn own_ip() -> IpAddr {
    if !cfg!(target_os = "linux") {
        // There is only this one.
        return IpAddr::from(Ipv4Addr::LOCALHOST);
    }
    loop {
        let mut bytes = [0_u8; 3];
        getrandom::fill(&mut bytes).expect("the system gives random bytes");
        // Neither the usual addresses of the machine's own programs, nor a network's first or last.
        let ip = Ipv4Addr::new(127, bytes[0] | 1, bytes[1], bytes[2].clamp(1, 254));
        if let Ok(claim) = UdpSocket::bind((ip, CLAIM)) {
            std::mem::forget(claim);
            return IpAddr::from(ip);
        }
    }
}
