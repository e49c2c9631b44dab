//! What the owner decided about guests' traffic.

use std::net::Ipv4Addr;

use super::Destination;

/// What the owner decided.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rules {
    /// Who answers guests' questions for names; guests reach port 53 there and nothing else.
    pub resolvers: Vec<Ipv4Addr>,
    /// What guests reach although it is in a blocked range.
    pub allowed: Vec<Destination>,
    /// How much one guest may use.
    pub caps: Caps,
}

/// How much of the network one guest may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caps {
    /// Megabits per second, in each direction.
    pub bandwidth_mbit: u32,
    /// New connections per second; five seconds' worth at once.
    pub new_connections: u32,
    /// Connections at a time, as the kernel tracks them.
    pub connections: u32,
}

/// Seconds' worth of new connections that a guest may make at once.
const NEW_BURST_SECONDS: u32 = 5;
/// Packets per second for each megabit per second: full use with packets of 500 bytes.
const PACKETS_PER_MBIT: u32 = 250;
/// Bytes per second in a megabit per second. (The kernel lets a second's worth through at once.)
const BYTES_PER_MBIT: u64 = 125_000;

impl Caps {
    /// Bytes per second, in each direction.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.bandwidth_mbit as u64 * BYTES_PER_MBIT
    }

    /// Packets per second that a guest may send, at least 1000.
    #[must_use]
    pub const fn packets(self) -> u32 {
        let packets = self.bandwidth_mbit.saturating_mul(PACKETS_PER_MBIT);
        if packets < 1000 { 1000 } else { packets }
    }

    /// New connections that may come at once.
    #[must_use]
    pub const fn new_burst(self) -> u32 {
        self.new_connections.saturating_mul(NEW_BURST_SECONDS)
    }
}

impl Default for Caps {
    fn default() -> Self {
        Self { bandwidth_mbit: 100, new_connections: 100, connections: 4096 }
    }
}
