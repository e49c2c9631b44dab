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
use crate::containment::Names;
use crate::containment::names::interface;

/// The bridge driver's options: its interface's name, and whether those on it can talk to each other.
const BRIDGE_NAME: &str = "com.docker.network.bridge.name";
const ENABLE_ICC: &str = "com.docker.network.bridge.enable_icc";

/// Label of a network that is only made to see whether one can be made.
const TRIAL: &str = "golem.trial";

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

/// The network's interface on the host.
fn bridge(provider: &KeyId, egress: Egress) -> String {
    let names = Names::of(provider);
    match egress {
        Egress::Internet => names.internet,
        Egress::None => names.internal,
    }
}

/// Makes sure that the network exists, and returns its name.
pub(super) async fn ensure(
    engine: &Engine,
    provider: &KeyId,
    egress: Egress,
) -> Result<String, BackendError> {
    let name = name(provider, egress);
    let what = format!("can't create the Docker network {name}");
    let labels = [label(provider), egress_label(egress)];
    let failed = |error: CallError| error.into_backend(&what);
    if !find(engine, &labels).await.map_err(failed)?.is_empty() {
        return Ok(name);
    }
    match create(engine, provider, |subnet| request(provider, egress, subnet)).await {
        Ok(()) => Ok(name),
        Err(error) if no_free_subnet(&error) => Err(failed(error)),
        Err(error) => {
            // Another process of the same provider may have been quicker.
            let found = find(engine, &labels).await.map_err(failed)?;
            if found.is_empty() { Err(failed(error)) } else { Ok(name) }
        }
    }
}

/// Makes a network like the one that guests reach the internet from, for trying what becomes of it;
/// returns the name of its interface.
pub(super) async fn create_trial(engine: &Engine, provider: &KeyId) -> Result<String, CallError> {
    create(engine, provider, |subnet| trial_request(provider, subnet)).await?;
    Ok(interface("gvt-", provider))
}

/// Whether there is a network of this provider that guests use or have used; one that is only tried is none.
pub(super) async fn any(engine: &Engine, provider: &KeyId) -> Result<bool, CallError> {
    Ok(!find(engine, &[label(provider), EGRESS.to_owned()]).await?.is_empty())
}

/// Removes all networks of this provider.
pub(super) async fn remove_all(engine: &Engine, provider: &KeyId) -> Result<(), BackendError> {
    remove(engine, &[label(provider)]).await
}

/// Removes what a trial left behind.
pub(super) async fn remove_trial(engine: &Engine, provider: &KeyId) -> Result<(), BackendError> {
    remove(engine, &[label(provider), format!("{TRIAL}=1")]).await
}

async fn remove(engine: &Engine, labels: &[String]) -> Result<(), BackendError> {
    let what = "can't remove the provider's Docker networks";
    let found = find(engine, labels).await.map_err(|error| error.into_backend(what))?;
    for id in found.into_iter().filter_map(|network| network.id) {
        let removed =
            engine.call(CHANGE, |docker| async move { docker.remove_network(&id).await }).await;
        match removed {
            Err(error) if !error.is_not_found() => return Err(error.into_backend(what)),
            _ => {}
        }
    }
    Ok(())
}

async fn find(engine: &Engine, labels: &[String]) -> Result<Vec<Network>, CallError> {
    let filters = HashMap::from([("label", labels.to_vec())]);
    let options = ListNetworksOptionsBuilder::new().filters(&filters).build();
    engine.call(QUERY, |docker| async move { docker.list_networks(Some(options)).await }).await
}

fn label(provider: &KeyId) -> String {
    format!("{PROVIDER}={provider}")
}

fn egress_label(egress: Egress) -> String {
    format!("{EGRESS}={}", egress_word(egress))
}

/// Makes a network, in a subnet of the engine's choice, or in one of ours if it has none left.
async fn create(
    engine: &Engine,
    provider: &KeyId,
    request: impl Fn(Option<String>) -> NetworkCreateRequest,
) -> Result<(), CallError> {
    let mut refusal = CallError::Failed("no subnet is free".to_owned());
    for subnet in std::iter::once(None).chain(fallback_subnets(provider).map(Some)) {
        let request = request(subnet);
        let made =
            engine.call(CHANGE, |docker| async move { docker.create_network(request).await }).await;
        match made {
            Ok(_) => return Ok(()),
            Err(error) if no_free_subnet(&error) => refusal = error,
            Err(error) => return Err(error),
        }
    }
    Err(refusal)
}

fn trial_request(provider: &KeyId, subnet: Option<String>) -> NetworkCreateRequest {
    let mut request = request(provider, Egress::Internet, subnet);
    request.name = format!("golem-{}-trial", provider.short());
    let bridge = interface("gvt-", provider);
    request.options.get_or_insert_default().insert(BRIDGE_NAME.to_owned(), bridge);
    let labels = request.labels.get_or_insert_default();
    labels.remove(EGRESS);
    labels.insert(TRIAL.to_owned(), "1".to_owned());
    request
}

fn request(provider: &KeyId, egress: Egress, subnet: Option<String>) -> NetworkCreateRequest {
    let text = |(key, value): (&str, String)| (key.to_owned(), value);
    let options = [(BRIDGE_NAME, bridge(provider, egress)), (ENABLE_ICC, "false".to_owned())];
    let labels = [(PROVIDER, provider.to_string()), (EGRESS, egress_word(egress).to_owned())];
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
pub(super) fn routed_networks(table: &str) -> Vec<(u32, u32)> {
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

/// Whether the engine has no addresses left for another network, or not those that were asked for.
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
            assert_eq!(bridge(&provider, egress).len(), 15, "IFNAMSIZ less the NUL");
        }
        assert_ne!(bridge(&provider, Egress::Internet), bridge(&provider, Egress::None));
        assert_ne!(name(&provider, Egress::Internet), name(&provider, Egress::None));
    }

    #[test]
    fn guests_are_kept_apart_and_without_ipv6() {
        let request = request(&provider(), Egress::None, Some("10.213.4.0/22".to_owned()));
        assert_eq!(request.options.unwrap()[ENABLE_ICC], "false");
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
    }
}
