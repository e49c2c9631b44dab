//! How many may be listed, and who makes room when there is none: pure, so that every store decides
//! alike.
//!
//! Keys cost nothing, so what counts is where they come from. One address has a few places. When the
//! whole list is full, a newcomer takes the place of the youngest entry of the most crowded network,
//! unless its own network has as many already: so a flood out of one network fills the list, and
//! then gives way to everybody else; and whoever was listed before the flood is not the youngest.

use std::net::{IpAddr, SocketAddr};

use golem_vm_node::http::{Cidr, Peer};

/// How many rows may be remembered for each that may be listed. The others are graves, which keep
/// the last sequence of a key for a day.
const KNOWN_FOR_EACH_LISTED: usize = 4;
/// The part of an address that says to which network it belongs when the list is full: about what
/// one operator of networks is given.
const NETWORK_BITS: (u8, u8) = (16, 32);

/// The bounds on entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Entries from one address (IPv4, or IPv6 /64); 0 is no bound.
    pub per_address: usize,
    /// Entries in all.
    pub total: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { per_address: 16, total: 20_000 }
    }
}

impl Bounds {
    /// Rows in all, graves included.
    #[must_use]
    pub const fn known(&self) -> usize {
        self.total.saturating_mul(KNOWN_FOR_EACH_LISTED)
    }
}

/// Where an entry comes from, as far as it is counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The address, or its IPv6 /64; `None` for this machine itself, which is not counted.
    pub address: Option<String>,
    /// The network around it.
    pub network: String,
}

impl Place {
    /// The place of `address`, as it was observed. What is no address is a place of its own.
    #[must_use]
    pub fn of(address: &str) -> Self {
        let Ok(ip) = address.parse::<IpAddr>() else {
            return Self { address: Some(address.to_owned()), network: String::new() };
        };
        let ip = ip.to_canonical();
        let bits = if ip.is_ipv4() { NETWORK_BITS.0 } else { NETWORK_BITS.1 };
        Self {
            address: Peer::tcp(SocketAddr::new(ip, 0)).bucket().map(|bucket| bucket.to_string()),
            network: Cidr::around(ip, bits).to_string(),
        }
    }
}

/// What is there when a newcomer asks to be listed; it is not among these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Crowd {
    /// Entries listed from its address.
    pub from_address: usize,
    /// Rows from its address, graves included.
    pub known_from_address: usize,
    /// Entries in all.
    pub total: usize,
    /// Of them from its network; looked at only when the list is full.
    pub from_network: usize,
    /// Of them from the network that has most; looked at only when the list is full.
    pub from_most_crowded: usize,
}

/// What a newcomer's entry takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// Nobody's place.
    Free,
    /// The place of the youngest entry of the most crowded network.
    OfTheMostCrowded,
}

/// Why there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoRoom {
    /// Its address has as many as one may have.
    Address,
    /// The list is full, and no network has more than the newcomer's.
    List,
}

/// Whether somebody who is not listed now may be; `is_known` of whom a grave is there.
///
/// # Errors
/// [`NoRoom`].
pub fn admit(crowd: &Crowd, bounds: &Bounds, is_known: bool) -> Result<Room, NoRoom> {
    let most = bounds.per_address;
    let most_known = most.saturating_mul(KNOWN_FOR_EACH_LISTED);
    if most > 0
        && (crowd.from_address >= most || !is_known && crowd.known_from_address >= most_known)
    {
        return Err(NoRoom::Address);
    }
    if crowd.total < bounds.total {
        return Ok(Room::Free);
    }
    // At least two more, so that networks that share the list evenly don't push each other off it.
    if crowd.from_most_crowded >= crowd.from_network + 2 {
        return Ok(Room::OfTheMostCrowded);
    }
    Err(NoRoom::List)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_few_places() {
        let bounds = Bounds { per_address: 2, total: 100 };
        let crowd = |listed, known| Crowd {
            from_address: listed,
            known_from_address: known,
            ..Crowd::default()
        };
        assert_eq!(admit(&crowd(1, 1), &bounds, false), Ok(Room::Free));
        assert_eq!(admit(&crowd(2, 2), &bounds, true), Err(NoRoom::Address));
        // Nor can it fill the memory with those that come and go.
        assert_eq!(admit(&crowd(0, 8), &bounds, false), Err(NoRoom::Address));
        assert_eq!(admit(&crowd(0, 8), &bounds, true), Ok(Room::Free));
        let unbounded = Bounds { per_address: 0, ..bounds };
        assert_eq!(admit(&crowd(50, 50), &unbounded, false), Ok(Room::Free));
    }

    #[test]
    fn a_full_list_makes_room_for_networks_that_have_less() {
        let bounds = Bounds { per_address: 0, total: 10 };
        let full = |own, most| Crowd {
            total: 10,
            from_network: own,
            from_most_crowded: most,
            ..Crowd::default()
        };
        assert_eq!(admit(&full(0, 9), &bounds, false), Ok(Room::OfTheMostCrowded));
        assert_eq!(admit(&full(4, 6), &bounds, false), Ok(Room::OfTheMostCrowded));
        assert_eq!(admit(&full(5, 5), &bounds, false), Err(NoRoom::List));
        assert_eq!(admit(&full(0, 1), &bounds, false), Err(NoRoom::List));
    }

    #[test]
    fn places_are_counted_by_subscriber_and_by_network() {
        let of = |address| {
            let place = Place::of(address);
            (place.address.unwrap_or_default(), place.network)
        };
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(of("198.51.100.7"), pair("198.51.100.7", "198.51.0.0/16"));
        assert_eq!(of("::ffff:198.51.100.7"), pair("198.51.100.7", "198.51.0.0/16"));
        assert_eq!(of("2001:db8:1:2:3::4"), pair("2001:db8:1:2::", "2001:db8::/32"));
        assert_eq!(of("127.0.0.1"), pair("", "127.0.0.0/16"));
    }
}
