//! What the engine can do here and now.

use bollard::models::{SystemInfo, SystemVersion};
use golem_vm_protocol::KeyId;
use golem_vm_protocol::text::printable;
use golem_vm_protocol::vm::{Ability, Isolation};

use super::endpoint::Address;
use super::engine::{CallError, Engine, QUERY};
use super::{disk, guest, network, trial};
use crate::backend::at_most::AtMost;
use crate::backend::{BackendError, Capabilities, Containment, Finding};
use crate::containment::Firewall;

/// The oldest API that containers are private enough with (Engine 19.03).
const API_MIN: (u32, u32) = (1, 40);

/// Whether the kernel shows frames between two guests on one bridge to its firewall.
const BRIDGE_FILTER: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";

/// What about the engine changes how containers are made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct EngineTraits {
    /// It runs without root: it can't raise limits, and its networks are not the host's.
    pub(super) rootless: bool,
    /// It runs in a virtual machine of its own (Docker Desktop): its networks are not the host's.
    pub(super) desktop: bool,
    /// It may give a container higher limits than it has itself.
    pub(super) raises_limits: bool,
    /// Its kernel has IPv6.
    pub(super) knows_ipv6: bool,
}

/// Where the kernel says what this process could ever be allowed to do.
const OWN_STATUS: &str = "/proc/self/status";
/// There where the kernel has IPv6.
const IPV6: &str = "/proc/sys/net/ipv6/conf/lo/disable_ipv6";
/// CAP_SYS_RESOURCE, as a bit (capability.h).
const SYS_RESOURCE: u64 = 1 << 24;

impl EngineTraits {
    /// `status` is the text of [`OWN_STATUS`]: an engine beside us is held in the same bounds. (It
    /// lacks CAP_SYS_RESOURCE in some virtual machines and in most containers, and then a container
    /// with a limit of its own can't be started.)
    fn of(info: &SystemInfo, status: &str, knows_ipv6: bool) -> Self {
        let rootless = security_option(info, "rootless").is_some();
        let bounds = status
            .lines()
            .find_map(|line| line.strip_prefix("CapBnd:"))
            .and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
        Self {
            rootless,
            desktop: info.operating_system.as_deref() == Some("Docker Desktop"),
            raises_limits: !rootless && bounds.is_some_and(|bits| bits & SYS_RESOURCE != 0),
            knows_ipv6,
        }
    }

    pub(super) fn here(info: &SystemInfo) -> Self {
        let status = std::fs::read_to_string(OWN_STATUS).unwrap_or_default();
        Self::of(info, &status, std::path::Path::new(IPV6).exists())
    }

    /// Whether a container's own address leads nowhere from this host, so that its SSH port has to be
    /// published.
    pub(super) const fn publishes_ports(self) -> bool {
        self.rootless || self.desktop
    }
}

pub(super) async fn info(engine: &Engine) -> Result<SystemInfo, CallError> {
    engine.call(QUERY, |docker| async move { docker.info().await }).await
}

pub(super) async fn version(engine: &Engine) -> Result<SystemVersion, CallError> {
    engine.call(QUERY, |docker| async move { docker.version().await }).await
}

/// Asks the engine about itself.
pub(super) async fn traits(engine: &Engine) -> Result<EngineTraits, CallError> {
    info(engine).await.map(|info| EngineTraits::here(&info))
}

/// What can be done with every container.
const ABILITIES: [Ability; 2] = [Ability::Notify, Ability::LiveKeys];

/// What it can do on the best of engines and kernels.
pub(super) fn at_most() -> AtMost {
    AtMost {
        heading: "Docker",
        isolation: Isolation::Container,
        accel: "the host's",
        containment: "a table in the host's firewall, as root on the engine's own host",
        enforced: ["cpu", "memory", "processes", "storage", "bandwidth"]
            .map(str::to_owned)
            .to_vec(),
        abilities: ABILITIES.into(),
    }
}

/// See [`crate::backend::Backend::probe`].
pub(super) async fn probe(
    engine: &Engine,
    provider: &KeyId,
    disk: &disk::Tried,
    firewall: &Firewall,
) -> Result<Capabilities, BackendError> {
    let failed = |error: CallError| error.into_backend("can't ask the engine about itself");
    let version = version(engine).await.map_err(failed)?;
    let info = info(engine).await.map_err(failed)?;
    let clean = |text: Option<String>| printable(&text.unwrap_or_else(|| "?".to_owned()), 60);
    let api = clean(version.api_version);
    let name = format!("Docker Engine {} (API {api})", clean(version.version));

    let mut findings = vec![engine_finding(engine, &name, &api)];
    let traits = EngineTraits::here(&info);
    findings.extend(reach(engine, traits));
    let guest = trial::guest(engine, provider, traits).await?;
    let (mut enforced, allowed) = guest::judge(&info, guest.as_ref());
    findings.extend(allowed);
    enforced.extend(disk.is_enforced().then(|| "storage".to_owned()));
    findings.push(disk.finding(&info));
    findings.push(live_restore(&info));
    let (network, bridge) = try_network(engine, provider).await?;
    findings.push(network);
    let containment = contained(bridge, firewall).await;
    if containment == Containment::Contained {
        enforced.push("bandwidth".to_owned());
        findings.extend(names(firewall));
    }
    findings.extend(warnings(&info));
    Ok(Capabilities {
        isolation: Isolation::Container,
        version: name,
        enforced,
        containment,
        findings,
        data_root: info.docker_root_dir.map(Into::into),
        accel: None,
        abilities: ABILITIES.into(),
    })
}

fn engine_finding(engine: &Engine, name: &str, api: &str) -> Finding {
    let endpoint = engine.endpoint();
    let found = format!("{name} on {}, chosen because {}", endpoint.address, endpoint.reason);
    let number = |text: &str| text.parse::<u32>().ok();
    let is_old = api
        .split_once('.')
        .and_then(|(major, minor)| Some((number(major)?, number(minor)?)))
        .is_some_and(|version| version < API_MIN);
    if is_old {
        let found = format!("{found}; it is too old");
        Finding::bad("engine", found, "install a newer one (19.03 is the oldest that will do)")
    } else {
        Finding::good("engine", found)
    }
}

/// Whether SSH can get from this host to the containers.
fn reach(engine: &Engine, traits: EngineTraits) -> Option<Finding> {
    let elsewhere = match &engine.endpoint().address {
        Address::Unix(_) => false,
        Address::Tcp(authority) => {
            let host = authority.rsplit_once(':').map_or(authority.as_str(), |(host, _)| host);
            let host = host.trim_start_matches('[').trim_end_matches(']');
            let address = host.parse::<std::net::IpAddr>();
            !(host == "localhost" || address.is_ok_and(|address| address.is_loopback()))
        }
    };
    if elsewhere {
        return Some(Finding::bad(
            "reach",
            "the engine seems to run on another machine, and SSH can't be forwarded to VMs there",
            "run golem-provider beside the engine",
        ));
    }
    traits.publishes_ports().then(|| {
        let kind = if traits.rootless { "rootless" } else { "in a virtual machine of its own" };
        let detail = format!("the engine is {kind}: each VM's SSH port is published on 127.0.0.1");
        Finding::good("reach", detail)
    })
}

fn live_restore(info: &SystemInfo) -> Finding {
    if info.live_restore_enabled == Some(true) {
        return Finding::good("live restore", "VMs live on while the engine is restarted");
    }
    Finding::bad(
        "live restore",
        "VMs stop when the engine is restarted",
        "set \"live-restore\": true in /etc/docker/daemon.json",
    )
}

/// Makes a network as guests get it, looks at it, and removes it.
async fn try_network(engine: &Engine, provider: &KeyId) -> Result<(Finding, Bridge), BackendError> {
    const SUBJECT: &str = "networks";
    network::remove_trial(engine, provider).await?;
    let interface = match network::create_trial(engine, provider).await {
        Ok(interface) => interface,
        Err(CallError::Unavailable(text)) => return Err(BackendError::Unavailable(text)),
        Err(CallError::Refused { message, .. } | CallError::Failed(message)) => {
            let finding = Finding::bad(
                SUBJECT,
                format!("no network can be made for guests: {message}"),
                "see that iptables works and look at the engine's log",
            );
            return Ok((finding, Bridge::None));
        }
    };
    let bridge = if Firewall::has_interface(&interface) { Bridge::Here } else { Bridge::Elsewhere };
    let filter = std::fs::read_to_string(BRIDGE_FILTER);
    network::remove_trial(engine, provider).await?;
    let finding = match filter.as_deref().map(str::trim) {
        Ok("0") => Finding::bad(
            SUBJECT,
            format!("VMs can reach one another, because {BRIDGE_FILTER} is 0"),
            "set it to 1 (sysctl net.bridge.bridge-nf-call-iptables=1)",
        ),
        _ => Finding::good(SUBJECT, "a network can be made, on which VMs can't reach one another"),
    };
    Ok((finding, bridge))
}

/// Where the engine makes its bridges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bridge {
    /// In this process's network namespace.
    Here,
    /// Where this process can't see them.
    Elsewhere,
    /// Nowhere: it makes none.
    None,
}

/// Whether rules of this host hold for guests, found by making the bridge and loading the rules.
async fn contained(bridge: Bridge, firewall: &Firewall) -> Containment {
    let reason = match bridge {
        Bridge::Here => match firewall.trial().await {
            Ok(()) => return Containment::Contained,
            Err(reason) => reason,
        },
        Bridge::Elsewhere => {
            "the engine's networks are not in this host's network: it is rootless, \
                              in a virtual machine of its own, or on another machine. Run \
                              golem-provider beside a Docker Engine that runs as root"
                .to_owned()
        }
        Bridge::None => "the engine makes no networks for guests".to_owned(),
    };
    Containment::Uncontained(format!(
        "guests can reach this host's own addresses and its local network, because no firewall rules \
         can be set for them: {reason}"
    ))
}

/// Whether names resolve in guests.
fn names(firewall: &Firewall) -> Option<Finding> {
    const SUBJECT: &str = "resolvers";
    let resolvers = &firewall.rules().resolvers;
    if resolvers.is_empty() {
        return Some(Finding::bad(
            SUBJECT,
            "this host's own resolvers can't be asked by guests (they are on loopback or have no IPv4 \
             address), so the engine chooses others",
            "set GOLEM_PROVIDER_RESOLVERS to resolvers that guests may ask",
        ));
    }
    let list = resolvers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    Some(Finding::good(
        SUBJECT,
        format!("guests ask {list} for names, and reach port 53 only there"),
    ))
}

pub(super) fn warnings(info: &SystemInfo) -> Option<Finding> {
    let warnings = info.warnings.as_ref().filter(|warnings| !warnings.is_empty())?;
    let joined = warnings.iter().map(|text| text.trim()).collect::<Vec<_>>().join("; ");
    let detail = printable(&joined, 600);
    Some(Finding { good: false, ..Finding::good("engine's warnings", detail) })
}

/// The engine's words for one of its security options (`name=seccomp,profile=default`).
pub(super) fn security_option<'a>(info: &'a SystemInfo, name: &str) -> Option<&'a str> {
    let options = info.security_options.as_ref()?;
    let named =
        |option: &&String| option.split(',').any(|part| part.strip_prefix("name=") == Some(name));
    options.iter().find(named).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::super::endpoint::Endpoint;
    use super::*;

    fn info(options: &[&str]) -> SystemInfo {
        SystemInfo {
            security_options: Some(options.iter().map(ToString::to_string).collect()),
            ..SystemInfo::default()
        }
    }

    #[test]
    fn rootless_and_desktop_engines_publish_ports() {
        let of = |info: &SystemInfo| EngineTraits::of(info, "CapBnd:\t000001ffffffffff\n", true);
        let rootless = of(&info(&["name=rootless"]));
        assert!(rootless.publishes_ports() && !rootless.raises_limits);
        let mut desktop = info(&[]);
        desktop.operating_system = Some("Docker Desktop".to_owned());
        assert!(of(&desktop).publishes_ports());
        let plain = of(&info(&["name=seccomp"]));
        assert!(!plain.publishes_ports() && plain.raises_limits);
        let bounded = EngineTraits::of(&info(&[]), "CapBnd:\t000001fffeffffff\n", true);
        assert!(!bounded.raises_limits);
    }

    #[test]
    fn engines_elsewhere_and_old_ones_are_found_out() {
        let engine = |address| Engine::new(Endpoint { address, reason: String::new() });
        let tcp = |text: &str| engine(Address::Tcp(text.to_owned()));
        let traits = EngineTraits::default();
        assert!(reach(&tcp("192.0.2.1:2375"), traits).is_some_and(|one| !one.good));
        assert_eq!(reach(&tcp("127.0.0.1:2375"), traits), None);
        assert_eq!(reach(&tcp("[::1]:2375"), traits), None);
        let local = engine(Address::Unix("/x".into()));
        assert!(engine_finding(&local, "Docker", "1.41").good);
        assert!(!engine_finding(&local, "Docker", "1.39").good);
        assert!(engine_finding(&local, "Docker", "2.0").good);
    }
}
