//! What the engine tells of a container, and what that amounts to: from inspecting one, or from the list of
//! all of them.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use bollard::models::{
    ContainerInspectResponse, ContainerStateStatusEnum as Status, ContainerSummary,
    ContainerSummaryStateEnum as Listed, EndpointSettings, NetworkSettings,
};

use super::spec;
use crate::backend::{EndedBy, InstanceId, Observation};
use crate::containment::Guest;

/// What was seen of a container, and its end of the network while it runs.
pub(super) type Seen = (Observation, Option<Guest>);

type Networks = HashMap<String, EndpointSettings>;

/// A label of an inspected container.
pub(super) fn label<'a>(container: &'a ContainerInspectResponse, name: &str) -> Option<&'a String> {
    container.config.as_ref()?.labels.as_ref()?.get(name)
}

/// In which state an inspected container is.
pub(super) fn status(container: &ContainerInspectResponse) -> Option<Status> {
    container.state.as_ref()?.status
}

/// Whether it is there and can be started.
pub(super) fn is_idle(container: &ContainerInspectResponse) -> bool {
    matches!(status(container), Some(Status::CREATED | Status::EXITED))
}

/// Whether its removal has begun: nothing can be done with it but to remove it.
pub(super) fn is_going(container: &ContainerInspectResponse) -> bool {
    matches!(status(container), Some(Status::REMOVING | Status::DEAD))
}

/// Before its first start a container's start time is the year 1.
pub(super) fn ever_ran(container: &ContainerInspectResponse) -> bool {
    let started = container.state.as_ref().and_then(|state| state.started_at.as_deref());
    started.is_some_and(|time| !time.is_empty() && !time.starts_with("0001-"))
}

/// With which code it ended, if it ever ran.
pub(super) fn exit_code(container: &ContainerInspectResponse) -> Option<i64> {
    container.state.as_ref()?.exit_code.filter(|_| ever_ran(container))
}

/// What an inspected container amounts to.
pub(super) fn inspected(container: &ContainerInspectResponse) -> Seen {
    let observation = match status(container) {
        Some(Status::RUNNING | Status::STOPPING) => {
            running(ssh_address(container.network_settings.as_ref()))
        }
        Some(Status::CREATED | Status::EXITED) => Observation::Stopped {
            exit_code: exit_code(container),
            out_of_memory: container
                .state
                .as_ref()
                .is_some_and(|state| state.oom_killed == Some(true)),
            // The engine does not tell whether a container ended by itself or with the host.
            by: EndedBy::Unknown,
        },
        Some(Status::PAUSED) => broken(PAUSED),
        Some(Status::RESTARTING) => broken(RESTARTING),
        Some(Status::REMOVING) => broken(REMOVING),
        Some(Status::DEAD) => broken(DEAD),
        Some(Status::EMPTY) | None => broken(NO_STATE),
    };
    let networks = container.network_settings.as_ref().and_then(|net| net.networks.as_ref());
    let guest = guest_of(&observation, networks);
    (observation, guest)
}

/// What a listed container is, and amounts to: the same as inspecting it tells, but for whether it was
/// ended for using too much memory. `None` for one that is not a VM's.
pub(super) fn listed(container: &ContainerSummary) -> Option<(InstanceId, Seen)> {
    let names = container.names.as_ref()?;
    let id = names.iter().find_map(|name| name.trim_start_matches('/').parse().ok())?;
    let stopped =
        |exit_code| Observation::Stopped { exit_code, out_of_memory: false, by: EndedBy::Unknown };
    let networks = container.network_settings.as_ref().and_then(|net| net.networks.as_ref());
    let observation = match container.state {
        Some(Listed::RUNNING | Listed::STOPPING) => {
            running(published(container).or_else(|| networks.and_then(own_address)))
        }
        Some(Listed::CREATED) => stopped(None),
        Some(Listed::EXITED) => stopped(container.status.as_deref().and_then(exit_code_in)),
        Some(Listed::PAUSED) => broken(PAUSED),
        Some(Listed::RESTARTING) => broken(RESTARTING),
        Some(Listed::REMOVING) => broken(REMOVING),
        Some(Listed::DEAD) => broken(DEAD),
        Some(Listed::EMPTY) | None => broken(NO_STATE),
    };
    let guest = guest_of(&observation, networks);
    Some((id, (observation, guest)))
}

const PAUSED: &str = "the container is paused";
const RESTARTING: &str = "the container is being restarted by the engine";
const REMOVING: &str = "the container is being removed";
const DEAD: &str = "the engine could not remove all of the container";
const NO_STATE: &str = "the engine does not say in which state the container is";
const NO_ADDRESS: &str = "the container runs but has no network address";

fn broken(reason: &str) -> Observation {
    Observation::Broken { reason: reason.to_owned() }
}

fn running(ssh: Option<SocketAddr>) -> Observation {
    ssh.map_or_else(|| broken(NO_ADDRESS), |ssh| Observation::Running { ssh })
}

/// The code in the engine's words for one that has ended (`Exited (137) 2 hours ago`).
fn exit_code_in(status: &str) -> Option<i64> {
    status.strip_prefix("Exited (")?.split_once(')')?.0.parse().ok()
}

/// Of one that does not run there is none, whatever the engine says: after it was killed, it shows the
/// address that the container had, which is another's soon.
fn guest_of(observation: &Observation, networks: Option<&Networks>) -> Option<Guest> {
    if matches!(observation, Observation::Stopped { .. }) {
        return None;
    }
    networks.and_then(guest)
}

/// A running container's end of its network.
fn guest(networks: &Networks) -> Option<Guest> {
    networks.values().find_map(|end| {
        let address = end.ip_address.as_deref()?.parse().ok()?;
        Some(Guest { address, mac: end.mac_address.as_deref()?.parse().ok()? })
    })
}

/// The published port where there is one, else port 22 of the container's own address.
fn ssh_address(settings: Option<&NetworkSettings>) -> Option<SocketAddr> {
    let settings = settings?;
    let published = settings
        .ports
        .as_ref()
        .and_then(|ports| ports.get(spec::SSH_PORT_KEY)?.as_ref()?.first())
        .and_then(|binding| {
            let ip = binding.host_ip.as_deref()?.parse().ok()?;
            Some(SocketAddr::new(ip, binding.host_port.as_deref()?.parse().ok()?))
        });
    published.or_else(|| own_address(settings.networks.as_ref()?))
}

fn own_address(networks: &Networks) -> Option<SocketAddr> {
    let address = networks.values().find_map(|end| end.ip_address.as_deref()?.parse().ok())?;
    Some(SocketAddr::new(address, spec::SSH_PORT))
}

fn published(container: &ContainerSummary) -> Option<SocketAddr> {
    let ports = container.ports.iter().flatten();
    ports.filter(|port| port.private_port == spec::SSH_PORT).find_map(|port| {
        let ip: IpAddr = port.ip.as_deref()?.parse().ok()?;
        Some(SocketAddr::new(ip, port.public_port?))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use golem_vm_protocol::VmId;
    use serde_json::json;

    use super::*;

    const NEVER: &str = "0001-01-01T00:00:00Z";
    const ONCE: &str = "2026-11-21T12:00:00.123456789Z";

    fn container(status: &str, started: &str, code: i64, oom: bool) -> ContainerInspectResponse {
        serde_json::from_value(json!({
            "State": { "Status": status, "StartedAt": started, "ExitCode": code, "OOMKilled": oom },
            "Config": { "Labels": { "golem.egress": "none" } },
            "NetworkSettings": { "Networks": { "golem-x": end(status) } },
        }))
        .unwrap()
    }

    fn end(status: &str) -> serde_json::Value {
        let (address, mac) = match status {
            "running" => ("172.18.0.2", "02:42:ac:12:00:02"),
            _ => ("", ""),
        };
        json!({ "IPAddress": address, "MacAddress": mac })
    }

    fn one() -> InstanceId {
        InstanceId::of(VmId::from_bytes([7; 16]))
    }

    fn summary(state: &str, words: &str) -> ContainerSummary {
        serde_json::from_value(json!({
            "Names": [format!("/{}", one())],
            "State": state,
            "Status": words,
            "Ports": [{ "PrivatePort": 22, "Type": "tcp" }],
            "NetworkSettings": { "Networks": { "golem-x": end(state) } },
        }))
        .unwrap()
    }

    #[test]
    fn every_state_is_understood_in_both_ways_of_asking() {
        let stopped = |exit_code, out_of_memory| Observation::Stopped {
            exit_code,
            out_of_memory,
            by: EndedBy::Unknown,
        };
        let running = Observation::Running { ssh: "172.18.0.2:22".parse().unwrap() };
        let table = [
            ("created", NEVER, 0, "Created", stopped(None, false)),
            ("exited", ONCE, 0, "Exited (0) 3 weeks ago", stopped(Some(0), false)),
            ("exited", ONCE, 137, "Exited (137) 2 hours ago", stopped(Some(137), false)),
            ("running", ONCE, 0, "Up 2 hours", running),
            ("paused", ONCE, 0, "Up 2 hours (Paused)", broken(PAUSED)),
            ("restarting", ONCE, 1, "Restarting (1) 2 seconds ago", broken(RESTARTING)),
            ("removing", ONCE, 0, "Removal In Progress", broken(REMOVING)),
            ("dead", ONCE, 0, "Dead", broken(DEAD)),
            ("", ONCE, 0, "", broken(NO_STATE)),
        ];
        for (state, started, code, words, expected) in table {
            let (inspected, guest) = inspected(&container(state, started, code, false));
            assert_eq!(inspected, expected, "{state}");
            let (id, seen) = listed(&summary(state, words)).unwrap();
            assert_eq!((id, seen), (one(), (expected, guest)), "{state}, listed");
            assert_eq!(guest.is_some(), state == "running", "{state}");
        }
        let killed = inspected(&container("exited", ONCE, 137, true)).0;
        assert_eq!(killed, stopped(Some(137), true));
    }

    #[test]
    fn what_does_not_run_is_no_guest_whatever_address_the_engine_remembers() {
        let mut one = summary("running", "Up 1 second");
        assert!(listed(&one).unwrap().1.1.is_some());
        one.state = Some(Listed::EXITED);
        assert_eq!(listed(&one).unwrap().1.1, None);
        let mut other = container("running", ONCE, 0, false);
        assert!(inspected(&other).1.is_some());
        other.state = container("exited", ONCE, 137, false).state;
        assert_eq!(inspected(&other).1, None);
    }

    #[test]
    fn a_running_container_without_an_address_is_broken() {
        let mut one = summary("running", "Up 1 second");
        one.network_settings = None;
        assert_eq!(listed(&one).unwrap().1, (broken(NO_ADDRESS), None));
        let mut other = container("running", ONCE, 0, false);
        other.network_settings = None;
        assert_eq!(inspected(&other), (broken(NO_ADDRESS), None));
    }

    #[test]
    fn what_is_no_vm_s_container_is_not_among_them() {
        for name in ["/golem-0123456789ab-trial", "/golem-vm_0", "/web"] {
            let mut other = summary("running", "Up 1 second");
            other.names = Some(vec![name.to_owned()]);
            assert_eq!(listed(&other), None, "{name}");
        }
    }

    #[test]
    fn a_published_port_is_preferred_and_an_address_is_needed() {
        let settings = |text| serde_json::from_value::<NetworkSettings>(text).unwrap();
        let published = settings(json!({
            "Ports": { "22/tcp": [{ "HostIp": "127.0.0.1", "HostPort": "49153" }] },
            "Networks": { "golem-x": { "IPAddress": "172.18.0.2" } },
        }));
        assert_eq!(ssh_address(Some(&published)), "127.0.0.1:49153".parse().ok());
        let direct = settings(json!({
            "Ports": { "22/tcp": null },
            "Networks": { "a": { "IPAddress": "" }, "b": { "IPAddress": "172.18.0.3" } },
        }));
        assert_eq!(ssh_address(Some(&direct)), "172.18.0.3:22".parse().ok());
        assert_eq!(ssh_address(Some(&settings(json!({})))), None);
        assert_eq!(ssh_address(None), None);
        let mut listed_one = summary("running", "Up 1 second");
        listed_one.ports = serde_json::from_value(json!([
            { "IP": "127.0.0.1", "PrivatePort": 80, "PublicPort": 49152, "Type": "tcp" },
            { "IP": "127.0.0.1", "PrivatePort": 22, "PublicPort": 49153, "Type": "tcp" },
        ]))
        .unwrap();
        let ssh = "127.0.0.1:49153".parse().unwrap();
        assert_eq!(listed(&listed_one).unwrap().1.0, Observation::Running { ssh });
    }

    #[test]
    fn only_what_never_ran_counts_as_half_made() {
        assert!(!ever_ran(&container("created", NEVER, 0, false)));
        assert!(ever_ran(&container("exited", ONCE, 78, false)));
        assert_eq!(exit_code(&container("exited", ONCE, 78, false)), Some(78));
        assert!(!is_idle(&container("running", ONCE, 0, false)));
        assert!(is_going(&container("dead", ONCE, 0, false)));
    }
}
