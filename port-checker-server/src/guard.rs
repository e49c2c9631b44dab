//! Who may have whom dialled, and how much at once.

use std::net::IpAddr;
use std::time::Duration;

use golem_vm_node::http::{AddressShare, AddressShares, Caller, ProblemResponse};
use golem_vm_protocol::text::printable;
use golem_vm_protocol::{ErrorCode, FieldError, Problem};

/// Time for a name to resolve.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// The address that is dialled for `caller`, whose connection comes from `peer`.
///
/// A signed caller has its own address checked, and no other: what it may ask about is what it
/// could find out itself. An unsigned one, where the operator serves them at all, names any
/// address, but a stranger can't have this machine's own loopback or its link (cloud metadata
/// services live there) looked at.
///
/// # Errors
/// 403 `address_not_yours`; 422 when an unsigned caller names none, or a name that leads nowhere.
pub async fn target(
    caller: Caller,
    peer: IpAddr,
    named: Option<&str>,
) -> Result<IpAddr, ProblemResponse> {
    match (caller, named.map(str::trim)) {
        (Caller::Verified(_), None) => Ok(peer),
        (Caller::Verified(_), Some(named)) => match named.parse::<IpAddr>() {
            Ok(address) if address.to_canonical() == peer => Ok(peer),
            _ => Err(not_yours(named, peer)),
        },
        (Caller::Anonymous, None | Some("")) => {
            Err(Problem::validation(vec![FieldError::new("/provider_ip", "field required")]).into())
        }
        (Caller::Anonymous, Some(named)) => {
            let address = resolve(named).await?;
            if is_inside(address) && address != peer && !peer.is_loopback() {
                return Err(not_yours(named, peer));
            }
            Ok(address)
        }
    }
}

fn not_yours(named: &str, peer: IpAddr) -> ProblemResponse {
    let detail = format!(
        "your request comes from {peer}, so that address is the one that is checked, and {} is not; \
         leave provider_ip out, or send the request from the address you want checked",
        printable(named, 100)
    );
    ProblemResponse::new(ErrorCode::AddressNotYours, detail)
}

/// Addresses that mean something else here than at the caller.
fn is_inside(address: IpAddr) -> bool {
    address.is_loopback()
        || address.is_unspecified()
        || address.is_multicast()
        || match address {
            IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast() || v4.octets()[0] == 0,
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        }
}

async fn resolve(named: &str) -> Result<IpAddr, ProblemResponse> {
    if let Ok(address) = named.parse::<IpAddr>() {
        return Ok(address.to_canonical());
    }
    let failed = |reason: &str| {
        let detail = format!("{} can't be resolved: {reason}", printable(named, 100));
        Problem::validation(vec![FieldError::new("/provider_ip", detail)]).into()
    };
    match tokio::time::timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host((named, 0))).await {
        Err(_) => Err(failed("no answer in time")),
        Ok(Err(error)) => Err(failed(&printable(&error.to_string(), 200))),
        Ok(Ok(mut addresses)) => addresses
            .next()
            .map(|address| address.ip().to_canonical())
            .ok_or_else(|| failed("it has no address")),
    }
}

/// A place among the requests of the address `bucket`, until it is dropped.
///
/// # Errors
/// 429 `rate_limited` when that address has as many checks running as it may.
pub fn enter(
    shares: &AddressShares,
    bucket: Option<IpAddr>,
) -> Result<AddressShare, ProblemResponse> {
    shares.enter(bucket).ok_or_else(|| {
        let detail = "your address has as many checks running here as it may; wait for one of them";
        ProblemResponse::new(ErrorCode::RateLimited, detail)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use golem_vm_protocol::KeyPair;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    async fn asked(caller: Caller, peer: &str, named: Option<&str>) -> Result<IpAddr, ErrorCode> {
        target(caller, ip(peer), named).await.map_err(|refusal| refusal.0.code)
    }

    #[tokio::test]
    async fn a_signed_caller_has_its_own_address_checked_and_no_other() {
        let caller = Caller::Verified(KeyPair::from_secret_bytes([1; 32]).unwrap().id());
        let own = Ok(ip("192.0.2.1"));
        assert_eq!(asked(caller, "192.0.2.1", None).await, own);
        assert_eq!(asked(caller, "192.0.2.1", Some("192.0.2.1")).await, own);
        assert_eq!(asked(caller, "192.0.2.1", Some("::ffff:192.0.2.1")).await, own);
        for other in ["192.0.2.2", "127.0.0.1", "localhost", "", "192.0.2.1.example"] {
            assert_eq!(
                asked(caller, "192.0.2.1", Some(other)).await,
                Err(ErrorCode::AddressNotYours),
                "{other}"
            );
        }
    }

    #[tokio::test]
    async fn an_unsigned_stranger_can_not_have_this_machine_looked_at() {
        let ask = async |named| asked(Caller::Anonymous, "192.0.2.1", Some(named)).await;
        assert_eq!(ask("198.51.100.7").await, Ok(ip("198.51.100.7")));
        for inside in [
            "127.0.0.1",
            "::1",
            "0.0.0.0",
            "169.254.169.254",
            "fe80::1",
            "224.0.0.1",
            "::ffff:127.0.0.1",
        ] {
            assert_eq!(ask(inside).await, Err(ErrorCode::AddressNotYours), "{inside}");
        }
        assert_eq!(
            asked(Caller::Anonymous, "127.0.0.1", Some("127.0.0.1")).await,
            Ok(ip("127.0.0.1"))
        );
        assert_eq!(
            asked(Caller::Anonymous, "127.0.0.1", None).await,
            Err(ErrorCode::ValidationFailed)
        );
        assert_eq!(
            asked(Caller::Anonymous, "127.0.0.1", Some("no such name")).await,
            Err(ErrorCode::ValidationFailed)
        );
    }

    #[test]
    fn one_address_has_so_many_requests_at_a_time() {
        let shares = AddressShares::new(1);
        let here = Some(ip("192.0.2.1"));
        let _held = enter(&shares, here).unwrap();
        assert_eq!(enter(&shares, here).unwrap_err().0.code, ErrorCode::RateLimited);
        enter(&shares, Some(ip("192.0.2.2"))).unwrap();
    }
}
