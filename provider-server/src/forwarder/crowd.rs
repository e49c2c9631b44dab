//! Who has just come to a port. An SSH server has room for only so many who have not logged in yet, and
//! ours sees all of them come from one address: so it is decided here who gets that room.
//!
//! A session is a *newcomer* for [`GRACE`]: after that its SSH server has either let it in or thrown it
//! out (`LoginGraceTime` of our images is 30 s), and it is nobody's business here any more. When there
//! are too many newcomers, one of the address that has most gives way to an address that has fewer. So
//! a stranger who holds connections open, or opens them as fast as they are closed, can keep the renter
//! out only with as many addresses as there are places.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

/// Newcomers at most on one port, unless set otherwise: below the number (`MaxStartups 150` of our
/// images) from which sshd itself turns people away, and by lot.
pub const DEFAULT_MAX_NEWCOMERS_PER_PORT: usize = 45;

/// How long a session is a newcomer: a little longer than sshd gives it to log in.
const GRACE: Duration = Duration::from_secs(35);

/// The newcomers of one port.
#[derive(Debug)]
pub(super) struct Crowd {
    limit: usize,
    inside: Mutex<Vec<Newcomer>>,
}

#[derive(Debug, Clone)]
struct Newcomer {
    source: IpAddr,
    since: Instant,
    out: CancellationToken,
}

impl Crowd {
    /// With room for `limit`.
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, inside: Mutex::default() })
    }

    /// Lets a session of `peer` in, unless there is no room for it. `out` ends it when it has to give
    /// way to another. It leaves when what is returned is dropped.
    pub(super) fn enter(
        self: &Arc<Self>,
        peer: SocketAddr,
        out: CancellationToken,
        now: Instant,
    ) -> Option<Entered> {
        let source = source(peer.ip());
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        inside.retain(|one| !one.out.is_cancelled() && now.duration_since(one.since) < GRACE);
        if inside.len() >= self.limit {
            let count = |source| inside.iter().filter(|one| one.source == source).count();
            let largest =
                inside.iter().map(|one| one.source).max_by_key(|source| count(*source))?;
            if count(source) + 1 >= count(largest) {
                return None;
            }
            let last = inside.iter().rposition(|one| one.source == largest)?;
            inside.remove(last).out.cancel();
        }
        inside.push(Newcomer { source, since: now, out: out.clone() });
        Some(Entered { crowd: Arc::clone(self), out })
    }

    /// Lets in a session that was let in before, `since` then.
    pub(super) fn enter_again(
        self: &Arc<Self>,
        peer: SocketAddr,
        out: CancellationToken,
        since: Instant,
    ) -> Entered {
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        inside.push(Newcomer { source: source(peer.ip()), since, out: out.clone() });
        Entered { crowd: Arc::clone(self), out }
    }
}

/// A session that was let in.
#[derive(Debug)]
pub(super) struct Entered {
    crowd: Arc<Crowd>,
    out: CancellationToken,
}

impl Drop for Entered {
    fn drop(&mut self) {
        // Marks it as gone; the next one that comes sweeps.
        self.out.cancel();
        let mut inside = self.crowd.inside.lock().unwrap_or_else(PoisonError::into_inner);
        inside.retain(|one| !one.out.is_cancelled());
    }
}

/// What counts as one source: an IPv4 address; of IPv6 the half that a network gives one customer.
fn source(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => {
            let network = u128::from(ip) & !u128::from(u64::MAX);
            IpAddr::V6(network.into())
        }
        ip => ip,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn at(address: &str) -> SocketAddr {
        SocketAddr::new(address.parse().unwrap(), 1)
    }

    #[test]
    fn a_stranger_who_holds_every_place_gives_way_to_another_address() {
        let (crowd, now) = (Crowd::new(4), Instant::now());
        let enter = |address: &str| {
            let out = CancellationToken::new();
            crowd.enter(at(address), out.clone(), now).map(|entered| (entered, out))
        };
        let held: Vec<_> = (0..4).map(|_| enter("192.0.2.1").unwrap()).collect();
        assert!(enter("192.0.2.1").is_none(), "no more for one who has all");
        let renter = enter("198.51.100.7").unwrap();
        let thrown_out = held.iter().filter(|(_, out)| out.is_cancelled()).count();
        assert_eq!(thrown_out, 1);
        assert!(enter("192.0.2.1").is_none(), "and it does not come back for it");
        assert!(!renter.1.is_cancelled());

        let second = enter("198.51.100.7").unwrap();
        assert!(enter("198.51.100.7").is_none(), "half of the places each");
        drop((renter, second));
        assert!(enter("192.0.2.1").is_some(), "who leaves makes room");
    }

    #[test]
    fn who_has_been_there_for_long_is_no_newcomer_and_is_left_alone() {
        let (crowd, began) = (Crowd::new(1), Instant::now());
        let out = CancellationToken::new();
        let _first = crowd.enter(at("192.0.2.1"), out.clone(), began).unwrap();
        let other = || CancellationToken::new();
        assert!(crowd.enter(at("192.0.2.2"), other(), began + GRACE / 2).is_none());
        assert!(crowd.enter(at("192.0.2.2"), other(), began + GRACE).is_some());
        assert!(!out.is_cancelled());
    }

    #[test]
    fn a_network_of_ipv6_is_one_source() {
        let of = |text: &str| source(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }
}
