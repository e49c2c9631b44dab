//! Looks at the ports from here, while no provider runs: which are held by the forwarder, which
//! are free, and which another program has.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, TcpListener};

use super::facts::{LookedAtPorts, TakenPort};
use crate::config::Config;

/// What binding a port said, where it failed.
type Refused = BTreeMap<u16, std::io::Error>;

/// Tries every port that the forwarder does not hold by binding it for a moment. Blocks.
pub(super) fn look(config: &Config, held: &BTreeSet<u16>) -> LookedAtPorts {
    let port = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
    let range: BTreeSet<u16> = config.port_range.clone().map(port).collect();
    let first = port(config.port_range.start);
    let last = port(config.port_range.end.saturating_sub(1));
    let mut refused = Refused::new();
    for number in range.difference(held).chain((config.port != 0).then_some(&config.port)) {
        if let Err(error) = try_bind(config.host, *number) {
            refused.insert(*number, error);
        }
    }
    let holders = crate::ports::holders(&refused.keys().copied().collect());
    let own_held = range.intersection(held).count();
    let taken_of_range = refused.keys().filter(|port| range.contains(port)).count();
    let taken = refused
        .into_iter()
        .map(|(port, error)| TakenPort {
            port,
            is_api: port == config.port,
            by: holders.get(&port).cloned(),
            reason: reason(&error),
        })
        .collect();
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    LookedAtPorts {
        first,
        last,
        held: count(own_held),
        free: count(range.len().saturating_sub(own_held + taken_of_range)),
        taken,
        verify: config.verify_ports,
    }
}

fn try_bind(host: IpAddr, port: u16) -> std::io::Result<()> {
    TcpListener::bind(SocketAddr::new(host, port)).map(drop)
}

fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => "another program has it".to_owned(),
        std::io::ErrorKind::PermissionDenied => {
            "this user may not listen on it (ports below 1024 need root)".to_owned()
        }
        std::io::ErrorKind::AddrNotAvailable => {
            "this machine does not have the address in GOLEM_PROVIDER_HOST".to_owned()
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use golem_vm_node::settings::{Settings, SettingsSource};

    use super::*;
    use crate::config::TABLE;

    #[test]
    fn a_taken_port_is_told_from_held_and_free_ones() {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = other.local_addr().unwrap().port();
        let (start, end) = (port.to_string(), (u32::from(port) + 1).to_string());
        let flag = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let source = SettingsSource {
            flags: vec![
                flag("GOLEM_PROVIDER_HOST", "127.0.0.1"),
                flag("GOLEM_PROVIDER_PORT", "0"),
                flag("GOLEM_PROVIDER_PORT_RANGE_START", &start),
                flag("GOLEM_PROVIDER_PORT_RANGE_END", &end),
            ],
            ..SettingsSource::default()
        };
        let config = Config::from_settings(&Settings::load(&TABLE, source).unwrap()).unwrap();
        let looked = look(&config, &BTreeSet::new());
        assert_eq!((looked.held, looked.free, looked.taken.len()), (0, 0, 1));
        assert_eq!((looked.taken[0].port, looked.taken[0].is_api), (port, false));
        let looked = look(&config, &BTreeSet::from([port]));
        assert_eq!((looked.held, looked.free, looked.taken.len()), (1, 0, 0));
    }
}
