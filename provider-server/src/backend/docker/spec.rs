//! From what the provider wants to what the engine is told: the body of the call that creates the
//! container, and the labels by which it is known again.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use bollard::models::{
    ContainerCreateBody, EndpointSettings, HealthConfig, HostConfig, HostConfigLogConfig,
    NetworkingConfig, PortBinding, ResourcesUlimits, RestartPolicy, RestartPolicyNameEnum,
};
use data_encoding::HEXLOWER;
use golem_vm_protocol::KeyId;
use sha2::{Digest, Sha256};

use super::probe::EngineTraits;
use crate::backend::{BackendError, Egress, InstanceSpec};

/// Label: whose it is, as a provider id.
pub(super) const PROVIDER: &str = "golem.provider";
/// Label of containers: the VM behind which they stand.
pub(super) const VM: &str = "golem.vm";
/// Label of containers: fingerprint of the spec they were made from.
pub(super) const SPEC: &str = "golem.spec";
/// Label of containers and networks: where traffic may go.
pub(super) const EGRESS: &str = "golem.egress";

/// The port of the guest's sshd.
pub(super) const SSH_PORT: u16 = 22;
/// The same, as the engine writes it.
pub(super) const SSH_PORT_KEY: &str = "22/tcp";

/// The least that an ordinary Debian works with: apt, users, sudo, services and logins by SSH.
/// Found by leaving out one after the other; without `CAP_NET_RAW` nobody can pose as a neighbour.
///
/// Each with its number in capability.h, and what fails without it:
const CAPABILITIES: [(&str, u32); 10] = [
    // sshd, sudo and su, on kernels that audit: PAM takes the refusal for a failed login.
    ("AUDIT_WRITE", 29),
    // dpkg, useradd.
    ("CHOWN", 0),
    // apt, which writes as one user what another owns.
    ("DAC_OVERRIDE", 1),
    // dpkg; chmod of another user's file.
    ("FOWNER", 3),
    // chmod g+s on a file of a group that one is not in: without it the bit is lost silently.
    ("FSETID", 4),
    // Ending another user's process, and so stopping a service.
    ("KILL", 5),
    // Ports below 1024 with engines older than 20.10, and with Podman. Only in the guest's own network.
    ("NET_BIND_SERVICE", 10),
    // sshd, sudo, apt.
    ("SETGID", 6),
    ("SETUID", 7),
    // sshd: it locks itself up before anybody has logged in.
    ("SYS_CHROOT", 18),
];

/// The capabilities of a guest as bits, as the kernel shows them.
pub(super) fn capability_bits() -> u64 {
    CAPABILITIES.iter().fold(0, |bits, (_, number)| bits | 1 << number)
}

/// Length of a period in which a CPU quota is spent, in microseconds (the kernel's default).
const CPU_PERIOD_US: i64 = 100_000;
/// The smallest quota that the kernel takes, in microseconds.
const CPU_QUOTA_MIN_US: i64 = 1_000;
/// The smallest memory limit that the engine takes, in MiB.
const MEMORY_MIN_MIB: u64 = 6;
/// Seconds that the engine gives a container to end when it is itself shut down.
const STOP_TIMEOUT: i64 = 10;
/// Where the kernel looks first when the whole host is out of memory: at guests, then at the host.
const OOM_SCORE: i64 = 300;
/// Switches IPv6 off on the loopback interface.
const LOOPBACK_IPV6: &str = "net.ipv6.conf.lo.disable_ipv6";
/// Open files of a process that asked for no more, as on an ordinary server.
const OPEN_FILES_SOFT: u64 = 1024;

/// The word for an egress in labels.
pub(super) const fn egress_word(egress: Egress) -> &'static str {
    egress.as_str()
}

/// The network that a container is connected to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Network<'a> {
    /// Its name.
    pub(super) name: &'a str,
    /// Who answers questions for names on it; empty for the engine's own choice.
    pub(super) resolvers: &'a [Ipv4Addr],
}

/// A fingerprint of everything that a container is made from. The keys that may log in are not part
/// of it: they can be changed.
pub(super) fn fingerprint(spec: &InstanceSpec) -> String {
    let mut hash = Sha256::new();
    let mut add = |text: &str| {
        hash.update(u64::try_from(text.len()).unwrap_or(u64::MAX).to_be_bytes());
        hash.update(text);
    };
    add("1");
    add(&spec.id.to_string());
    add(spec.hostname.as_str());
    add(spec.image.as_str());
    let limits = &spec.limits;
    add(&format!(
        "{} {} {} {} {}",
        limits.cpu_millis,
        limits.memory_mib,
        limits.storage_mib,
        limits.processes,
        limits.open_files
    ));
    add(egress_word(spec.confinement.egress));
    if let Some(access) = &spec.access {
        add(access.host_key.as_str());
    }
    HEXLOWER.encode(&hash.finalize()[..16])
}

/// The body of the call that creates the container.
///
/// # Errors
/// [`BackendError::Failed`] when a limit is out of the engine's range.
pub(super) fn container(
    spec: &InstanceSpec,
    provider: &KeyId,
    network: Network<'_>,
    traits: EngineTraits,
) -> Result<ContainerCreateBody, BackendError> {
    let labels = HashMap::from([
        (PROVIDER.to_owned(), provider.to_string()),
        (VM.to_owned(), spec.id.vm().to_string()),
        (SPEC.to_owned(), fingerprint(spec)),
        (EGRESS.to_owned(), egress_word(spec.confinement.egress).to_owned()),
    ]);
    let endpoints = HashMap::from([(network.name.to_owned(), EndpointSettings::default())]);
    Ok(ContainerCreateBody {
        hostname: Some(spec.hostname.as_str().to_owned()),
        image: Some(spec.image.as_str().to_owned()),
        labels: Some(labels),
        // What an image from elsewhere wants to be asked about is none of the host's business.
        healthcheck: Some(HealthConfig {
            test: Some(vec!["NONE".to_owned()]),
            ..HealthConfig::default()
        }),
        exposed_ports: Some(vec![SSH_PORT_KEY.to_owned()]),
        stop_signal: Some("SIGTERM".to_owned()),
        stop_timeout: Some(STOP_TIMEOUT),
        host_config: Some(host_config(spec, network, traits)?),
        networking_config: Some(NetworkingConfig { endpoints_config: Some(endpoints) }),
        ..ContainerCreateBody::default()
    })
}

fn host_config(
    spec: &InstanceSpec,
    network: Network<'_>,
    traits: EngineTraits,
) -> Result<HostConfig, BackendError> {
    let limits = &spec.limits;
    let too_much =
        |what: &str| BackendError::Failed(format!("the {what} of {} is out of range", spec.id));
    if limits.memory_mib < MEMORY_MIN_MIB {
        return Err(too_much("memory limit"));
    }
    let memory = limits
        .memory_mib
        .checked_mul(1 << 20)
        .and_then(|bytes| i64::try_from(bytes).ok())
        .ok_or_else(|| too_much("memory limit"))?;
    // Not NanoCpus: that is refused for more CPUs than the host has, which overcommitment allows.
    let quota = (i64::from(limits.cpu_millis) * CPU_PERIOD_US / 1000).max(CPU_QUOTA_MIN_US);
    let log = [("max-size", "1m"), ("max-file", "1")];
    let published =
        PortBinding { host_ip: Some("127.0.0.1".to_owned()), host_port: Some(String::new()) };
    Ok(HostConfig {
        cpu_period: Some(CPU_PERIOD_US),
        cpu_quota: Some(quota),
        memory: Some(memory),
        // Memory and swap together: no swap.
        memory_swap: Some(memory),
        // Its pages count as the guest's memory, so it can be as large as on any server.
        shm_size: Some(memory / 2),
        pids_limit: Some(i64::from(limits.processes)),
        ulimits: ulimits(limits.open_files, traits),
        oom_score_adj: Some(OOM_SCORE),
        cap_drop: Some(vec!["ALL".to_owned()]),
        cap_add: Some(CAPABILITIES.map(|(name, _)| name.to_owned()).to_vec()),
        privileged: Some(false),
        ipc_mode: Some("private".to_owned()),
        network_mode: Some(network.name.to_owned()),
        dns: (!network.resolvers.is_empty())
            .then(|| network.resolvers.iter().map(ToString::to_string).collect()),
        // None, instead of the host's: they are about its own network.
        dns_search: Some(vec![".".to_owned()]),
        port_bindings: traits
            .publishes_ports()
            .then(|| HashMap::from([(SSH_PORT_KEY.to_owned(), Some(vec![published]))])),
        // The engine switches IPv6 off everywhere, but "localhost" is ::1 as well.
        sysctls: traits
            .knows_ipv6
            .then(|| HashMap::from([(LOOPBACK_IPV6.to_owned(), "0".to_owned())])),
        // The provider decides what runs after a restart: leases may have ended meanwhile.
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::NO),
            maximum_retry_count: None,
        }),
        // A guest can write to its first process's output as much as it likes.
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".to_owned()),
            config: Some(log.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
        }),
        ..HostConfig::default()
    })
}

/// Limits per process, where the engine may raise them. The number of processes is *not* limited
/// here: that limit is counted per user id, and user 1000 of one guest is user 1000 of all others,
/// so that one could use up what another may have. The control group's limit is what holds.
fn ulimits(open_files: u64, traits: EngineTraits) -> Option<Vec<ResourcesUlimits>> {
    let hard = i64::try_from(open_files).unwrap_or(i64::MAX);
    let soft = i64::try_from(open_files.min(OPEN_FILES_SOFT)).unwrap_or(i64::MAX);
    traits.raises_limits.then(|| {
        vec![ResourcesUlimits {
            name: Some("nofile".to_owned()),
            soft: Some(soft),
            hard: Some(hard),
        }]
    })
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]

    use golem_vm_protocol::{KeyPair, VmId};

    use super::*;
    use crate::backend::{Confinement, ImageDigest, InstanceId, Limits, SshAccess};

    pub(in super::super) fn key(seed: u8) -> golem_vm_protocol::vm::SshPublicKey {
        let private = ssh_key::private::Ed25519Keypair::from_seed(&[seed; 32]);
        let public = ssh_key::PublicKey::from(ssh_key::public::Ed25519PublicKey::from(&private));
        public.to_openssh().unwrap().parse().unwrap()
    }

    pub(in super::super) fn spec() -> InstanceSpec {
        InstanceSpec {
            id: InstanceId::of(VmId::from_bytes([7; 16])),
            hostname: "web-1".parse().unwrap(),
            image: ImageDigest::new("sha256:aa"),
            limits: Limits {
                cpu_millis: 1500,
                memory_mib: 1024,
                storage_mib: 10240,
                processes: 512,
                open_files: 65536,
            },
            confinement: Confinement { egress: Egress::Internet },
            access: Some(SshAccess {
                host_key_private: "-----BEGIN…\n".to_owned(),
                host_key: key(1),
                authorized_keys: vec![key(2), key(3)],
            }),
            user_data: None,
        }
    }

    const NETWORK: Network<'_> =
        Network { name: "golem-net", resolvers: &[Ipv4Addr::new(10, 0, 0, 2)] };

    fn provider() -> KeyId {
        KeyPair::from_secret_bytes([9; 32]).unwrap().id()
    }

    fn made(spec: &InstanceSpec, traits: EngineTraits) -> ContainerCreateBody {
        container(spec, &provider(), NETWORK, traits).unwrap()
    }

    #[test]
    fn limits_are_what_was_rented() {
        let body = made(&spec(), EngineTraits::default());
        let host = body.host_config.unwrap();
        assert_eq!(host.cpu_quota, Some(150_000));
        assert_eq!(host.cpu_period, Some(100_000));
        assert_eq!(host.memory, Some(1 << 30));
        assert_eq!(host.memory_swap, host.memory);
        assert_eq!(host.shm_size, Some(1 << 29));
        assert_eq!(host.pids_limit, Some(512));
        assert_eq!(host.ulimits, None);
        let traits = EngineTraits { raises_limits: true, ..EngineTraits::default() };
        let ulimits = made(&spec(), traits).host_config.unwrap().ulimits.unwrap();
        assert_eq!(ulimits.len(), 1, "none per user id");
        assert_eq!(ulimits[0].name.as_deref(), Some("nofile"));
        assert_eq!((ulimits[0].soft, ulimits[0].hard), (Some(1024), Some(65536)));
    }

    #[test]
    fn limits_out_of_range_are_refused_or_rounded() {
        let mut small = spec();
        small.limits.cpu_millis = 1;
        assert_eq!(
            made(&small, EngineTraits::default()).host_config.unwrap().cpu_quota,
            Some(CPU_QUOTA_MIN_US)
        );
        for memory_mib in [0, 5, u64::MAX, 1 << 44] {
            small.limits.memory_mib = memory_mib;
            let error =
                container(&small, &provider(), NETWORK, EngineTraits::default()).unwrap_err();
            assert!(matches!(error, BackendError::Failed(_)));
        }
    }

    #[test]
    fn a_guest_gets_nothing_of_the_host() {
        let body = made(&spec(), EngineTraits::default());
        let host = body.host_config.unwrap();
        assert_eq!(host.privileged, Some(false));
        assert_eq!(host.cap_drop, Some(vec!["ALL".to_owned()]));
        let added = host.cap_add.unwrap();
        for dangerous in ["SYS_ADMIN", "NET_ADMIN", "NET_RAW", "MKNOD", "SETFCAP", "SYS_PTRACE"] {
            assert!(!added.iter().any(|capability| capability == dangerous));
        }
        assert_eq!(host.binds, None);
        assert_eq!(host.mounts, None);
        assert_eq!(host.devices, None);
        assert_eq!(host.pid_mode, None);
        assert_eq!(host.security_opt, None, "the engine's own seccomp filter stays");
        assert_eq!(host.oom_kill_disable, None);
        assert_eq!(host.network_mode.as_deref(), Some("golem-net"));
        assert_eq!(host.port_bindings, None);
        assert_eq!(host.dns, Some(vec!["10.0.0.2".to_owned()]));
        assert_eq!(host.dns_search, Some(vec![".".to_owned()]), "not the host's");
        let restart = host.restart_policy.unwrap();
        assert_eq!(restart.name, Some(RestartPolicyNameEnum::NO));
        let log = host.log_config.unwrap();
        assert_eq!(log.config.unwrap()["max-size"], "1m");
    }

    #[test]
    fn where_addresses_of_containers_lead_nowhere_the_port_is_published_on_loopback() {
        let traits = EngineTraits { rootless: true, ..EngineTraits::default() };
        let host = made(&spec(), traits).host_config.unwrap();
        let bindings = host.port_bindings.unwrap();
        let binding = &bindings["22/tcp"].as_ref().unwrap()[0];
        assert_eq!(binding.host_ip.as_deref(), Some("127.0.0.1"));
    }

    #[test]
    fn labels_say_whose_it_is_and_what_it_was_made_from() {
        let body = made(&spec(), EngineTraits::default());
        let labels = body.labels.unwrap();
        assert_eq!(labels[PROVIDER], provider().to_string());
        assert_eq!(labels[VM], spec().id.vm().to_string());
        assert_eq!(labels[SPEC], fingerprint(&spec()));
        assert_eq!(labels[EGRESS], "internet");
        assert_eq!(body.hostname.as_deref(), Some("web-1"));
    }

    #[test]
    fn every_part_of_a_spec_is_in_its_fingerprint() {
        type Change = fn(&mut InstanceSpec);
        let changes: [Change; 8] = [
            |spec| spec.hostname = "web-2".parse().unwrap(),
            |spec| spec.image = ImageDigest::new("sha256:bb"),
            |spec| spec.limits.cpu_millis += 1,
            |spec| spec.limits.memory_mib += 1,
            |spec| spec.limits.processes += 1,
            |spec| spec.limits.open_files += 1,
            |spec| spec.confinement.egress = Egress::None,
            |spec| spec.access = None,
        ];
        let original = fingerprint(&spec());
        assert_eq!(original, fingerprint(&spec()));
        let mut other_keys = spec();
        other_keys.access.as_mut().unwrap().authorized_keys.truncate(1);
        assert_eq!(original, fingerprint(&other_keys), "keys come and go");
        let mut seen = vec![original];
        for change in changes {
            let mut changed = spec();
            change(&mut changed);
            seen.push(fingerprint(&changed));
        }
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), changes.len() + 1);
    }
}
