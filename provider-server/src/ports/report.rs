//! What is known about the ports, for people and for the advertiser.

use std::collections::BTreeMap;

use golem_vm_protocol::KeyId;
use golem_vm_protocol::advertisement::PortCheckClaim;
use golem_vm_protocol::document::Envelope;
use golem_vm_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};

/// How far the verification from outside is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verification {
    /// The owner switched it off: every held port is handed out, and advertised as unverified.
    Off,
    /// There is nobody to ask: no port is handed out.
    NoCheckers,
    /// No checker has been asked yet.
    Waiting,
    /// Checkers are being asked.
    Checking,
    /// No checker could be asked so far; it is tried again.
    Unanswered,
    /// At least one checker has answered.
    Done,
}

/// A port as seen from this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Local {
    /// Not known: the forwarder has not said yet.
    Unknown,
    /// It is held and accepts connections.
    Held,
    /// Another program has it.
    Taken {
        /// Which, where that can be told.
        by: Option<String>,
    },
    /// This user may not have it.
    NotAllowed,
    /// It can't be held for another reason.
    Failed {
        /// The system's words.
        detail: String,
    },
}

/// Why a port was not proven to a checker.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "cause", rename_all = "snake_case")]
pub enum NotReached {
    /// Nothing came back: a firewall drops the packets.
    NoAnswer,
    /// Something said no: a router that does not forward the port, or a firewall that rejects.
    Refused,
    /// Something else than this provider answers there.
    NoProof,
    /// Another provider, or a proof that is not for this check.
    WrongProof,
    /// Something else.
    Other {
        /// The checker's words, made printable.
        detail: String,
    },
}

/// A port as seen from outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum External {
    /// No checker has said anything about it.
    NotChecked,
    /// It was proven to as many checkers as are needed.
    Reached {
        /// Which ones, by their URLs.
        by: Vec<String>,
        /// When it was last proven to one of them.
        at: Timestamp,
    },
    /// It was proven to some checkers, and to fewer than are needed.
    TooFew {
        /// To which, by their URLs.
        by: Vec<String>,
        /// To how many it has to be.
        needed: usize,
    },
    /// It was proven to none.
    NotReached {
        /// What each said, by URL.
        said: BTreeMap<String, NotReached>,
    },
}

/// One port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortReport {
    /// The port.
    pub port: u16,
    /// From this host.
    pub local: Local,
    /// From outside.
    pub external: External,
}

/// One port checker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckerReport {
    /// Its address, as set.
    pub url: String,
    /// Its key, once it has answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<KeyId>,
    /// Whether it is being asked now.
    pub asking: bool,
    /// When it answered last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered_at: Option<Timestamp>,
    /// How many ports it was asked about then, the API's included.
    pub asked: u32,
    /// How many of them were proven to it.
    pub reached: u32,
    /// Until when its attestation is good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attested_until: Option<Timestamp>,
    /// The address that it dialled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dialled: Option<String>,
    /// Why it could not be asked the last time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Something that keeps ports from being handed out, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortProblem {
    /// What was found.
    pub found: String,
    /// What to do about it.
    pub remedy: String,
}

/// Everything that is known about the ports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortsReport {
    /// How far the verification is.
    pub verification: Verification,
    /// The API's port.
    pub api: PortReport,
    /// The access ports, in rising order.
    pub access: Vec<PortReport>,
    /// The checkers, as listed in the settings.
    pub checkers: Vec<CheckerReport>,
    /// Why the forwarder can't be told anything, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forwarder_error: Option<String>,
    /// Which forwarder of an earlier version runs, that proves no port, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old_forwarder: Option<String>,
}

/// What of the ports goes into the advertisement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortsSummary {
    /// Access ports that could be given to a new VM now.
    pub free: usize,
    /// Whether requestors can be sent to the API: it was reached from outside, or nobody asks
    /// whether it can be.
    pub api_reachable: bool,
    /// How far the verification is.
    pub verification: Verification,
    /// What to advertise of it; `None` for an unverified provider.
    pub claim: Option<PortCheckClaim>,
    /// The checkers' signed words, with the host that each is about; the last ones first.
    pub attestations: Vec<(String, Envelope)>,
}

impl PortReport {
    /// Whether it is held here.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.local == Local::Held
    }

    /// Whether it was proven to as many checkers as are needed.
    #[must_use]
    pub const fn is_reached(&self) -> bool {
        matches!(self.external, External::Reached { .. })
    }
}

impl PortsReport {
    /// How many access ports are held here.
    #[must_use]
    pub fn held(&self) -> usize {
        self.access.iter().filter(|port| port.is_held()).count()
    }

    /// How many access ports are held here and were proven from outside.
    #[must_use]
    pub fn reached(&self) -> usize {
        self.access.iter().filter(|port| port.is_held() && port.is_reached()).count()
    }

    /// How many access ports may be handed out, those included that were given away.
    #[must_use]
    pub fn usable(&self) -> usize {
        if self.verification == Verification::Off { self.held() } else { self.reached() }
    }

    /// When a checker last answered.
    #[must_use]
    pub fn verified_at(&self) -> Option<Timestamp> {
        self.checkers.iter().filter_map(|checker| checker.answered_at).max()
    }

    /// Why nobody can come through an access port at the moment; none while all is well or not known.
    #[must_use]
    pub fn closed_because(&self, port: u16) -> Option<String> {
        let report = self.access.iter().find(|report| report.port == port)?;
        match (&report.local, &report.external) {
            (Local::Unknown, _) => None,
            (Local::Held, External::NotReached { said }) => {
                let (what, _) = external_advice(&mostly(said)?);
                Some(format!("port {port} can't be reached from outside: {what}"))
            }
            (Local::Held, _) => None,
            (local, _) => Some(format!("port {port} {}", local_text(local))),
        }
    }

    /// What is wrong, each with what to do about it; the worst first. Empty while all is well or
    /// not yet known.
    #[must_use]
    pub fn problems(&self) -> Vec<PortProblem> {
        let mut problems = Vec::new();
        let mut add = |found: String, remedy: &str| {
            problems.push(PortProblem { found, remedy: remedy.to_owned() });
        };
        if let Some(error) = &self.forwarder_error {
            add(
                error.clone(),
                "until the forwarder is back, VMs can't be reached; it is tried again all the time",
            );
        }
        if let Some(forwarder) = &self.old_forwarder {
            add(
                format!(
                    "{forwarder} is of an earlier version and can't prove that the access ports are this provider's"
                ),
                "it carries SSH sessions and is replaced as soon as there are none; to replace it at once, and \
                 cut them, end that process",
            );
        }
        match self.verification {
            Verification::NoCheckers => add(
                "no port checker is set, so no port is known to be reachable, and none is handed out".into(),
                "set GOLEM_PROVIDER_PORT_CHECKERS to a port checker's URL, or start with --no-verify-ports \
                 to be advertised as unverified",
            ),
            Verification::Unanswered => add(
                "no port checker could be asked, so no port is handed out; it is tried again".into(),
                "see below what became of each, or start with --no-verify-ports to be advertised as unverified",
            ),
            _ => {}
        }
        for checker in &self.checkers {
            if let Some(error) = &checker.error {
                add(
                    error.clone(),
                    "check GOLEM_PROVIDER_PORT_CHECKERS and that the port checker runs",
                );
            }
        }
        for (local, ports) in grouped(self.all().map(|port| (port.port, port.local.clone()))) {
            let Some(remedy) = local_remedy(&local) else { continue };
            add(format!("{} {}", named(&ports), local_text(&local)), remedy);
        }
        let unreached = self.all().filter(|port| port.is_held()).filter_map(|port| {
            let External::NotReached { said } = &port.external else { return None };
            Some((port.port, mostly(said)?))
        });
        let too_few = self.all().filter(|port| port.is_held()).filter_map(|port| {
            let External::TooFew { by, needed } = &port.external else { return None };
            Some((port.port, (by.clone(), *needed)))
        });
        for ((by, needed), ports) in grouped(too_few) {
            let found = format!(
                "{} proven to {} only, and GOLEM_PROVIDER_PORT_CHECK_QUORUM asks for {needed}",
                named(&ports),
                by.join(", ")
            );
            add(found, "see what became of the other port checkers, or lower the quorum");
        }
        for (cause, ports) in grouped(unreached) {
            let (what, remedy) = external_advice(&cause);
            add(format!("{} can't be reached from outside: {what}", named(&ports)), remedy);
        }
        problems
    }

    fn all(&self) -> impl Iterator<Item = &PortReport> {
        std::iter::once(&self.api).chain(&self.access)
    }
}

/// What most checkers said; among equals the one that can be acted on.
fn mostly(said: &BTreeMap<String, NotReached>) -> Option<NotReached> {
    let mut counts: BTreeMap<&NotReached, usize> = BTreeMap::new();
    for cause in said.values() {
        *counts.entry(cause).or_default() += 1;
    }
    let most = counts.into_iter().max_by_key(|(cause, n)| (*n, std::cmp::Reverse(*cause)))?;
    Some(most.0.clone())
}

fn local_text(local: &Local) -> String {
    match local {
        Local::Unknown => "not known yet".to_owned(),
        Local::Held => "held".to_owned(),
        Local::Taken { by: Some(by) } => format!("taken by another program, {by}"),
        Local::Taken { by: None } => "taken by another program".to_owned(),
        Local::NotAllowed => "not allowed for this user".to_owned(),
        Local::Failed { detail } => format!("can't be held: {detail}"),
    }
}

const fn local_remedy(local: &Local) -> Option<&'static str> {
    match local {
        Local::Unknown | Local::Held => None,
        Local::Taken { .. } => Some(
            "stop that program, or choose other ports with --port-range; a port that becomes free is taken at once",
        ),
        Local::NotAllowed => Some("choose ports from 1024 on with --port-range, or run as root"),
        Local::Failed { .. } => {
            Some("check GOLEM_PROVIDER_HOST and GOLEM_PROVIDER_PORT_RANGE_START and _END")
        }
    }
}

fn external_advice(cause: &NotReached) -> (String, &'static str) {
    match cause {
        NotReached::NoAnswer => (
            "no answer".to_owned(),
            "a firewall drops the connections: open these TCP ports in this host's firewall and in your \
             hosting provider's, and if this host is behind a router, forward them to it",
        ),
        NotReached::Refused => (
            "refused".to_owned(),
            "a router (NAT) answers for this host: forward these TCP ports to it; if there is none, a \
             firewall rejects the connections",
        ),
        NotReached::NoProof => (
            "something else answers there".to_owned(),
            "if this host is behind a router, forward these TCP ports to it and to no other machine; else \
             another program takes the connections before this provider does",
        ),
        NotReached::WrongProof => (
            "another provider answers there".to_owned(),
            "two providers behind one address need different ports: choose others with --port and --port-range",
        ),
        NotReached::Other { detail } => (
            detail.clone(),
            "check that the advertised address is this host's: GOLEM_PROVIDER_PUBLIC_IP",
        ),
    }
}

/// Ports by what they have in common, in the order of the first of each.
fn grouped<T: PartialEq>(items: impl Iterator<Item = (u16, T)>) -> Vec<(T, Vec<u16>)> {
    let mut groups: Vec<(T, Vec<u16>)> = Vec::new();
    for (port, key) in items {
        match groups.iter_mut().find(|(known, _)| *known == key) {
            Some((_, ports)) => ports.push(port),
            None => groups.push((key, vec![port])),
        }
    }
    groups
}

fn named(ports: &[u16]) -> String {
    let word = if ports.len() == 1 { "port" } else { "ports" };
    format!("{word} {}", ranges(ports))
}

/// `50800-50805, 50807`, in the order given.
pub(super) fn ranges(ports: &[u16]) -> String {
    let mut runs: Vec<(u16, u16)> = Vec::new();
    for &port in ports {
        match runs.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(port) => *last = port,
            _ => runs.push((port, port)),
        }
    }
    let text: Vec<_> = runs
        .into_iter()
        .map(
            |(first, last)| {
                if first == last { first.to_string() } else { format!("{first}-{last}") }
            },
        )
        .collect();
    text.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_written_as_ranges() {
        assert_eq!(ranges(&[]), "");
        assert_eq!(ranges(&[7466, 50_800, 50_801, 50_802, 50_804]), "7466, 50800-50802, 50804");
        assert_eq!(ranges(&[65_534, 65_535]), "65534-65535");
    }
}
