//! The provider's networks on the engine: one whose guests reach the internet, and one whose guests
//! reach nothing; each is made when the first guest needs it. On both, guests can't reach one another.
//!
//! The interfaces' names are fixed and begin with `gv`, so that firewall rules can name them, and so
//! that two calls at once can't make two networks: the engine refuses a second one on the same bridge.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use bollard::models::{Ipam, IpamConfig, Network, NetworkCreateRequest};
use bollard::query_parameters::ListNetworksOptionsBuilder;
use golem_vm_protocol::KeyId;

use super::engine::{CHANGE, CallError, Engine, QUERY};
use super::spec::{EGRESS, PROVIDER, egress_word};
use crate::backend::{BackendError, Egress};

/// Longest name of a Linux network interface (IFNAMSIZ less the NUL).
const INTERFACE_NAME_MAX: usize = 15;

/// Where subnets are taken from when the engine has none left: 10.213.0.0/16 (RFC 1918), in /22s.
/// A /22 has room for as many guests as a Linux bridge has ports (1023).
const FALLBACK_POOL: [u8; 2] = [10, 213];
const FALLBACK_PREFIX: u8 = 22;
const FALLBACK_SUBNETS: u8 = 64;

/// The network's name in the engine's own tools.
pub(super) fn name(provider: &KeyId, egress: Egress) -> String {
    match egress {
        Egress::Internet => format!("golem-{}", provider.short()),
        Egress::None => format!("golem-{}-internal", provider.short()),
    }
}

fn interface(provider: &KeyId, egress: Egress) -> String {
    let prefix = match egress {
        Egress::Internet => "gvm-",
        Egress::None => "gvi-",
    };
    let mut name = format!("{prefix}{provider}");
    name.truncate(INTERFACE_NAME_MAX);
    name
}

/// Makes sure that the network exists, and returns its name.
pub(super) async fn ensure(
    engine: &Engine,
    provider: &KeyId,
    egress: Egress,
) -> Result<String, BackendError> {
    let name = name(provider, egress);
    let what = format!("can't create the Docker network {name}");
    let mut subnets = std::iter::once(None).chain(fallback_subnets(provider).map(Some));
    let mut subnet = subnets.next().flatten();
    loop {
        let found = find(engine, provider, Some(egress)).await;
        if let Some(network) = found.map_err(|error| error.into_backend(&what))?.into_iter().next()
        {
            return Ok(network.name.unwrap_or(name));
        }
        let Err(error) = create(engine, request(provider, egress, subnet)).await else {
            return Ok(name);
        };
        if made_by_another_call(&error) && find(engine, provider, Some(egress)).await.is_ok() {
            // Found in the next round. If not, the engine says the same again, and that is told.
            let again = find(engine, provider, Some(egress)).await;
            if again.is_ok_and(|networks| !networks.is_empty()) {
                return Ok(name);
            }
            return Err(error.into_backend(&what));
        }
        if !no_free_subnet(&error) {
            return Err(error.into_backend(&what));
        }
        match subnets.next() {
            Some(next) => subnet = next,
            None => return Err(error.into_backend(&what)),
        }
    }
}

/// Removes all networks of this provider.
pub(super) async fn remove_all(engine: &Engine, provider: &KeyId) -> Result<(), BackendError> {
    let what = "can't remove the provider's Docker networks";
    let found = find(engine, provider, None).await;
    for network in found.map_err(|error| error.into_backend(what))? {
        let Some(id) = network.id else { continue };
        let removed = engine
            .call(CHANGE, |docker| async move { docker.remove_network(&id).await })
            .await;
        match removed {
            Err(error) if !error.is_not_found() => return Err(error.into_backend(what)),
            _ => {}
        }
    }
    Ok(())
}

async fn find(
    engine: &Engine,
    provider: &KeyId,
    egress: Option<Egress>,
) -> Result<Vec<Network>, CallError> {
    let mut labels = vec![format!("{PROVIDER}={provider}")];
    labels.extend(egress.map(|egress| format!("{EGRESS}={}", egress_word(egress))));
    let filters = HashMap::from([("label", labels)]);
    let options = ListNetworksOptionsBuilder::new().filters(&filters).build();
    engine.call(QUERY, |docker| async move { docker.list_networks(Some(options)).await }).await
}

async fn create(engine: &Engine, request: NetworkCreateRequest) -> Result<(), CallError> {
    engine
        .call(CHANGE, |docker| async move { docker.create_network(request).await })
        .await
        .map(|_| ())
}

fn request(provider: &KeyId, egress: Egress, subnet: Option<String>) -> NetworkCreateRequest {
    let text = |(key, value): (&str, String)| (key.to_owned(), value);
    let options = [
        ("com.docker.network.bridge.name", interface(provider, egress)),
        ("com.docker.network.bridge.enable_icc", "false".to_owned()),
    ];
    let labels =
        [(PROVIDER, provider.to_string()), (EGRESS, egress_word(egress).to_owned())];
    NetworkCreateRequest {
        name: name(provider, egress),
        driver: Some("bridge".to_owned()),
        internal: Some(egress == Egress::None),
        // The rules that contain guests are for IPv4.
        enable_ipv6: Some(false),
        ipam: subnet.map(|subnet| Ipam {
            config: Some(vec![IpamConfig { subnet: Some(subnet), ..IpamConfig::default() }]),
            ..Ipam::default()
        }),
        options: Some(options.map(text).into()),
        labels: Some(labels.map(text).into()),
        ..NetworkCreateRequest::default()
    }
}

/// All subnets of the fallback pool that no route of this host leads into, beginning at one that
/// depends on the provider.
fn fallback_subnets(provider: &KeyId) -> impl Iterator<Item = String> {
    let routes = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    let taken = routed_networks(&routes);
    let first = provider.as_bytes()[0];
    (0..FALLBACK_SUBNETS).filter_map(move |step| {
        let third = (first.wrapping_add(step) % FALLBACK_SUBNETS) * 4;
        let subnet = Ipv4Addr::new(FALLBACK_POOL[0], FALLBACK_POOL[1], third, 0);
        let free = !taken.iter().any(|(network, mask)| {
            let common = mask & prefix_mask(FALLBACK_PREFIX);
            u32::from(subnet) & common == network & common
        });
        free.then(|| format!("{subnet}/{FALLBACK_PREFIX}"))
    })
}

const fn prefix_mask(bits: u8) -> u32 {
    u32::MAX << (32 - bits as u32)
}

/// Networks with a route other than the default one, as (network, mask); `table` is in the form of
/// `/proc/net/route`, whose numbers are little-endian.
fn routed_networks(table: &str) -> Vec<(u32, u32)> {
    let number = |text: &str| u32::from_str_radix(text, 16).ok().map(u32::swap_bytes);
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            Some((number(fields.get(1)?)?, number(fields.get(7)?)?))
        })
        .filter(|(_, mask)| *mask != 0)
        .collect()
}

fn made_by_another_call(error: &CallError) -> bool {
    error.is_conflict() || error.says("already exists") || error.says("same bridge name")
}

fn no_free_subnet(error: &CallError) -> bool {
    error.says("could not find an available")
        || error.says("all predefined address pools")
        || error.says("Pool overlaps")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use golem_vm_protocol::KeyPair;

    use super::*;

    fn provider() -> KeyId {
        KeyPair::from_secret_bytes([9; 32]).unwrap().id()
    }

    #[test]
    fn names_fit_and_differ() {
        let provider = provider();
        for egress in [Egress::Internet, Egress::None] {
            assert_eq!(interface(&provider, egress).len(), INTERFACE_NAME_MAX);
        }
        assert_ne!(interface(&provider, Egress::Internet), interface(&provider, Egress::None));
        assert_ne!(name(&provider, Egress::Internet), name(&provider, Egress::None));
    }

    #[test]
    fn guests_are_kept_apart_and_without_ipv6() {
        let request = request(&provider(), Egress::None, Some("10.213.4.0/22".to_owned()));
        assert_eq!(request.options.unwrap()["com.docker.network.bridge.enable_icc"], "false");
        assert_eq!(request.enable_ipv6, Some(false));
        assert_eq!(request.internal, Some(true));
        let config = request.ipam.unwrap().config.unwrap();
        assert_eq!(config[0].subnet.as_deref(), Some("10.213.4.0/22"));
    }

    #[test]
    fn the_host_s_own_networks_are_left_alone() {
        let table = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\n\
                     eth0\t00000000\t0102A8C0\t0003\t0\t0\t0\t00000000\t0\n\
                     tun0\t0004D50A\t00000000\t0001\t0\t0\t0\t00FCFFFF\t0\n";
        let network = u32::from(Ipv4Addr::new(10, 213, 4, 0));
        assert_eq!(routed_networks(table), [(network, prefix_mask(22))]);
        assert_eq!(routed_networks("garbage\nmore"), []);
    }

    #[test]
    fn the_engine_s_words_for_too_many_networks_are_known() {
        let refused =
            |message: &str| CallError::Refused { status: 403, message: message.to_owned() };
        assert!(no_free_subnet(&refused(
            "could not find an available, non-overlapping IPv4 address pool among the defaults"
        )));
        assert!(no_free_subnet(&refused("Pool overlaps with other one on this address space")));
        assert!(made_by_another_call(&refused(
            "cannot create network a (gvm-x): conflicts with network b (gvm-x): networks have \
             same bridge name"
        )));
    }
}
