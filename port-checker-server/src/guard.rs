//! Who may have whom dialled.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use golem_vm_node::http::{AddressShares, ProblemResponse};
use golem_vm_protocol::address::AddressScope;
use golem_vm_protocol::advertisement::is_host;
use golem_vm_protocol::text::printable;
use golem_vm_protocol::{ErrorCode, FieldError, Problem};

/// Time for a name to resolve.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Checks of addresses that are not the caller's, leading to one network at a time.
const OTHERS_PER_NETWORK: usize = 2;

/// Decides which addresses are dialled. Cheap to clone; clones count together.
#[derive(Debug, Clone)]
pub struct Guard {
    /// Whether loopback and private addresses may be dialled: test networks.
    allow_private: bool,
    /// Checks of addresses that are not the caller's, by the network dialled.
    pub(crate) others: AddressShares,
}

/// What a signed caller asks about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The address that its request comes from.
    Own(IpAddr),
    /// Another one, which it has to prove to be its own; none if the name leads to none that may
    /// be dialled, which is not said.
    Other(Option<IpAddr>),
}

impl Guard {
    /// A guard; with `allow_private` for test networks.
    #[must_use]
    pub fn new(allow_private: bool) -> Self {
        Self { allow_private, others: AddressShares::new(OTHERS_PER_NETWORK) }
    }

    /// What is dialled for a signed caller whose connection comes from `peer`, and who names `host`
    /// or nothing.
    ///
    /// # Errors
    /// 403 `forbidden` for an address that is not dialled at all; 422 for what is no host.
    pub async fn target(
        &self,
        peer: IpAddr,
        host: Option<&str>,
    ) -> Result<Target, ProblemResponse> {
        let peer = peer.to_canonical();
        let Some(host) = host else {
            self.permit(peer)?;
            return Ok(Target::Own(peer));
        };
        if !is_host(host) {
            return Err(no_host("/host", host));
        }
        if let Ok(named) = host.parse::<IpAddr>() {
            let named = named.to_canonical();
            self.permit(named)?;
            return Ok(if named == peer { Target::Own(peer) } else { Target::Other(Some(named)) });
        }
        let found = resolve(host).await.unwrap_or_default();
        // What a name leads to in this machine's own network is nobody's business.
        let mut permitted = found.into_iter().filter(|address| self.permit(*address).is_ok());
        let first = permitted.next();
        Ok(match first {
            Some(own) if own == peer || permitted.any(|address| address == peer) => {
                Target::Own(peer)
            }
            _ => Target::Other(first),
        })
    }

    /// What is dialled for a caller of the original's check.
    ///
    /// # Errors
    /// 422 when none is named, or a name that leads nowhere; 403 `forbidden` for an address that is
    /// not dialled.
    pub async fn named(&self, named: Option<&str>) -> Result<IpAddr, ProblemResponse> {
        let named = named.map(str::trim).filter(|named| !named.is_empty());
        let Some(named) = named else {
            let missing = FieldError::new("/provider_ip", "field required");
            return Err(Problem::validation(vec![missing]).into());
        };
        if !is_host(named) {
            return Err(no_host("/provider_ip", named));
        }
        let address = match named.parse::<IpAddr>() {
            Ok(address) => address.to_canonical(),
            Err(_) => resolve(named)
                .await
                .and_then(|found| found.first().copied())
                .ok_or_else(|| no_host("/provider_ip", named))?,
        };
        self.permit(address)?;
        Ok(address)
    }

    /// Whether an address is dialled for anybody.
    fn permit(&self, address: IpAddr) -> Result<(), ProblemResponse> {
        let what = match AddressScope::of(address) {
            AddressScope::World => return Ok(()),
            AddressScope::LocalNetwork | AddressScope::ThisHost if self.allow_private => {
                return Ok(());
            }
            AddressScope::LocalNetwork | AddressScope::ThisHost => {
                "not a public one; its operator can allow that on a test network with \
                 PORT_CHECKER_ALLOW_PRIVATE_ADDRESSES=true"
            }
            AddressScope::Never => "link-local, multicast or reserved",
        };
        let detail = format!("this port checker does not dial {address}: the address is {what}");
        Err(ProblemResponse::new(ErrorCode::Forbidden, detail))
    }
}

/// What checks of one network are counted by: the address, or the /64 of an IPv6 one. Loopback
/// counts as well.
pub(crate) fn same_network(address: IpAddr) -> Option<IpAddr> {
    Some(match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
    })
}

fn no_host(pointer: &str, named: &str) -> ProblemResponse {
    let detail =
        format!("{} is no address and no name that can be resolved", printable(named, 100));
    Problem::validation(vec![FieldError::new(pointer, detail)]).into()
}

/// The addresses of a name; `None` when it has none, or none in time.
async fn resolve(name: &str) -> Option<Vec<IpAddr>> {
    let lookup = tokio::time::timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host((name, 0)));
    let found = lookup.await.ok()?.ok()?;
    Some(found.map(|address| address.ip().to_canonical()).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    async fn asked(peer: &str, host: Option<&str>) -> Result<Target, ErrorCode> {
        Guard::new(false).target(ip(peer), host).await.map_err(|refusal| refusal.0.code)
    }

    #[tokio::test]
    async fn another_address_is_told_from_the_callers_own() {
        let own = Ok(Target::Own(ip("192.0.2.1")));
        for host in [None, Some("192.0.2.1"), Some("::ffff:192.0.2.1")] {
            assert_eq!(asked("192.0.2.1", host).await, own);
            assert_eq!(asked("::ffff:192.0.2.1", host).await, own);
        }
        let other = asked("192.0.2.1", Some("192.0.2.2")).await;
        assert_eq!(other, Ok(Target::Other(Some(ip("192.0.2.2")))));
        for bad in ["", " 192.0.2.1", "a b", "http://a", "-x"] {
            assert_eq!(
                asked("192.0.2.1", Some(bad)).await,
                Err(ErrorCode::ValidationFailed),
                "{bad}"
            );
        }
        // It leads to loopback, or nowhere: no difference is shown.
        assert_eq!(asked("192.0.2.1", Some("localhost")).await, Ok(Target::Other(None)));
        let private = Guard::new(true);
        let own = private.target(ip("127.0.0.1"), Some("localhost")).await.unwrap();
        assert_eq!(own, Target::Own(ip("127.0.0.1")));
    }

    const INSIDE: [&str; 13] = [
        "127.0.0.1",
        "::1",
        "10.0.0.1",
        "172.16.5.4",
        "192.168.1.1",
        "100.64.0.1",
        "fd00::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::10.0.0.1",
        "2002:a00:1::1",
        "::10.0.0.1",
        "198.18.0.1",
    ];
    const NEVER: [&str; 8] = [
        "0.0.0.0",
        "169.254.169.254",
        "::ffff:169.254.169.254",
        "64:ff9b::169.254.169.254",
        "fe80::1",
        "224.0.0.1",
        "ff02::1",
        "255.255.255.255",
    ];

    #[tokio::test]
    async fn no_network_of_anybodys_own_is_dialled_unless_that_is_allowed() {
        let (public, private) = (Guard::new(false), Guard::new(true));
        for text in INSIDE.into_iter().chain(NEVER) {
            let refused = [
                public.target(ip(text), None).await.err(),
                public.target(ip("192.0.2.1"), Some(text)).await.err(),
                public.named(Some(text)).await.err(),
            ];
            for refusal in refused {
                assert_eq!(refusal.unwrap().0.code, ErrorCode::Forbidden, "{text}");
            }
        }
        for text in INSIDE {
            assert!(private.target(ip(text), None).await.is_ok(), "{text}");
            assert!(private.named(Some(text)).await.is_ok(), "{text}");
        }
        for text in NEVER {
            assert!(private.target(ip(text), None).await.is_err(), "{text}");
            assert!(private.named(Some(text)).await.is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn the_originals_check_names_its_address() {
        let guard = Guard::new(false);
        let ask = async |named| guard.named(named).await.map_err(|refusal| refusal.0.code);
        assert_eq!(ask(Some(" 198.51.100.7 ")).await, Ok(ip("198.51.100.7")));
        for bad in [None, Some(""), Some(" "), Some("no such name"), Some("name.invalid")] {
            assert_eq!(ask(bad).await, Err(ErrorCode::ValidationFailed), "{bad:?}");
        }
        assert_eq!(ask(Some("localhost")).await, Err(ErrorCode::Forbidden));
    }
}
