//! TCP ports on loopback.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

/// Below Linux's ephemeral ports (32768 on), so that no outgoing connection gets one, and away from
/// the programs' own defaults.
const LOWEST: u16 = 20_000;
const HIGHEST: u16 = 32_000;

/// Ports in a row that were free a moment ago.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    /// The first.
    pub first: u16,
    /// How many.
    pub count: u16,
}

impl PortRange {
    /// Finds such ports, others each time, and others in another process.
    #[must_use]
    pub fn find(count: u16) -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let room = HIGHEST - LOWEST;
        let of_this_process = u16::try_from(std::process::id() % u32::from(room)).unwrap();
        for _ in 0..room / count {
            let step = NEXT.fetch_add(count, Ordering::Relaxed);
            let first = LOWEST + of_this_process.wrapping_add(step) % (room - count);
            let range = Self { first, count };
            // Held all at once, so that they are free all at once.
            let held: Vec<_> =
                range.ports().map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port))).collect();
            if held.iter().all(Result::is_ok) {
                return range;
            }
        }
        panic!("no {count} TCP ports in a row are free between {LOWEST} and {HIGHEST}");
    }

    /// Each of them.
    pub fn ports(self) -> impl Iterator<Item = u16> {
        self.first..self.first + self.count
    }

    /// The port behind the last.
    #[must_use]
    pub const fn end(self) -> u16 {
        self.first + self.count
    }
}

/// Whether something listens on a port of loopback or of all addresses, by the kernel's own list:
/// connecting would be noticed.
#[must_use]
pub fn listens(port: u16) -> bool {
    const LISTEN: &str = "0A";
    let suffix = format!(":{port:04X}");
    ["/proc/net/tcp", "/proc/net/tcp6"].iter().any(|table| {
        std::fs::read_to_string(table).unwrap_or_default().lines().any(|line| {
            let mut fields = line.split_whitespace().skip(1);
            let local = fields.next().unwrap_or_default();
            local.ends_with(&suffix) && fields.nth(1) == Some(LISTEN)
        })
    })
}
