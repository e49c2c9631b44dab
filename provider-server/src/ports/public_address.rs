//! The address at which the world finds this provider.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

/// Who saw from which address this provider's requests come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SeenBy {
    /// A port checker. Its word counts more: it has dialled the address as well.
    PortChecker,
    /// A discovery server.
    Discovery,
}

/// How far an address reaches; the farthest is the best one to advertise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Reach {
    World,
    LocalNetwork,
    ThisHost,
}

/// The advertised host: the owner's setting, else what port checkers and discovery see. No other
/// service is asked. Cheap to clone; clones are one.
#[derive(Debug, Clone)]
pub struct PublicAddress {
    fixed: bool,
    // By source, so that one that is wrong or gone does not overwrite the others.
    seen: Arc<Mutex<BTreeMap<(SeenBy, String), IpAddr>>>,
    current: Arc<watch::Sender<Option<String>>>,
}

impl PublicAddress {
    /// `setting` is the owner's `GOLEM_PROVIDER_PUBLIC_IP`, if set. `listen` is the address that
    /// the provider listens on: one that is only this host's, or a public one, is the answer itself.
    #[must_use]
    pub fn new(setting: Option<String>, listen: IpAddr) -> Self {
        let bare = |host: String| {
            host.strip_prefix('[')
                .and_then(|h| h.strip_suffix(']'))
                .map(str::to_owned)
                .unwrap_or(host)
        };
        let own = (!listen.is_unspecified() && reach(listen) != Reach::LocalNetwork)
            .then(|| listen.to_string());
        let fixed = setting.map(bare).or(own);
        Self {
            fixed: fixed.is_some(),
            seen: Arc::default(),
            current: Arc::new(watch::Sender::new(fixed)),
        }
    }

    /// The host to advertise, an IP address or a name, once it is known.
    #[must_use]
    pub fn current(&self) -> Option<String> {
        self.current.borrow().clone()
    }

    /// The host, where it is set and not found out.
    #[must_use]
    pub fn fixed(&self) -> Option<String> {
        self.fixed.then(|| self.current()).flatten()
    }

    /// Follows it.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Option<String>> {
        self.current.subscribe()
    }

    /// Takes note of what the server at `url` saw. An address that can't be anybody's is ignored.
    pub fn observed(&self, by: SeenBy, url: &str, address: IpAddr) {
        let address = address.to_canonical();
        if self.fixed || address.is_unspecified() || address.is_multicast() {
            return;
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.insert((by, url.to_owned()), address);
        let best = seen.iter().min_by_key(|((by, _), ip)| (reach(**ip), *by)).map(|(_, ip)| *ip);
        let best = best.map(|ip| ip.to_string());
        self.current.send_if_modified(|current| {
            let differs = *current != best;
            if differs {
                tracing::info!(
                    address = best.as_deref().unwrap_or_default(),
                    "public address, as {url} sees it"
                );
                *current = best;
            }
            differs
        });
    }
}

fn reach(address: IpAddr) -> Reach {
    let shared = |v4: Ipv4Addr| v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64;
    match address {
        ip if ip.is_loopback() => Reach::ThisHost,
        // RFC 1918, RFC 3927, and RFC 6598 (behind a carrier's NAT).
        IpAddr::V4(v4) if v4.is_private() || v4.is_link_local() || shared(v4) => {
            Reach::LocalNetwork
        }
        IpAddr::V6(v6) if v6.is_unique_local() || v6.is_unicast_link_local() => Reach::LocalNetwork,
        _ => Reach::World,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn unset() -> PublicAddress {
        PublicAddress::new(None, ip("0.0.0.0"))
    }

    #[test]
    fn what_is_set_stays() {
        let address = PublicAddress::new(Some("vm.example".into()), ip("0.0.0.0"));
        address.observed(SeenBy::PortChecker, "http://a", ip("203.0.113.1"));
        assert_eq!(address.current().as_deref(), Some("vm.example"));
        let six = PublicAddress::new(Some("[2001:db8::1]".into()), ip("::"));
        assert_eq!(six.current().as_deref(), Some("2001:db8::1"));
        let loopback = PublicAddress::new(None, ip("127.0.0.5"));
        assert_eq!(loopback.current().as_deref(), Some("127.0.0.5"));
        assert_eq!(PublicAddress::new(None, ip("192.168.1.2")).current(), None);
    }

    #[test]
    fn the_farthest_reaching_address_wins_and_port_checkers_before_discovery() {
        let address = unset();
        let changes = address.changes();
        assert_eq!(address.current(), None);
        address.observed(SeenBy::Discovery, "http://d", ip("0.0.0.0"));
        assert_eq!(address.current(), None);
        for (by, url, seen, current) in [
            (SeenBy::Discovery, "http://d1", "127.0.0.1", "127.0.0.1"),
            (SeenBy::Discovery, "http://d2", "::ffff:203.0.113.9", "203.0.113.9"),
            (SeenBy::PortChecker, "http://c1", "192.168.1.7", "203.0.113.9"),
            (SeenBy::PortChecker, "http://c2", "203.0.113.1", "203.0.113.1"),
            (SeenBy::PortChecker, "http://c2", "203.0.113.2", "203.0.113.2"),
        ] {
            address.observed(by, url, ip(seen));
            assert_eq!(address.current().as_deref(), Some(current));
        }
        assert!(changes.has_changed().unwrap());
    }
}
