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

impl Default for Caps {
    fn default() -> Self {
        Self { bandwidth_mbit: 100, new_connections: 100, connections: 4096 }
    }
}
