//! Everything that is known about each port, in one place.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use golem_vm_protocol::KeyId;
use golem_vm_protocol::advertisement::PortCheckClaim;
use golem_vm_protocol::document::Envelope;
use golem_vm_protocol::text::printable;
use golem_vm_protocol::time::Timestamp;
use tokio::sync::watch;

use super::report::{
    CheckerReport, External, Local, NotReached, PortReport, PortsReport, PortsSummary, Verification,
};
use crate::config::Config;
use crate::forwarder::wire::{BindFailureReason, PortStatus};

/// What is known about the ports. Cheap to clone; clones are one.
#[derive(Debug, Clone)]
pub struct PortBoard {
    state: Arc<Mutex<State>>,
    changes: Arc<watch::Sender<u64>>,
}

#[derive(Debug, Clone, PartialEq)]
struct State {
    verify: bool,
    api: (u16, Local),
    /// The offered range, without the API's port.
    access: BTreeMap<u16, Local>,
    checkers: Vec<Checker>,
    quorum: usize,
    forwarder_error: Option<String>,
    old_forwarder: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
struct Checker {
    url: String,
    asking: bool,
    answer: Option<Answer>,
    error: Option<String>,
}

/// A checker's last words.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Answer {
    pub(super) checker: KeyId,
    pub(super) at: Timestamp,
    pub(super) dialled: Option<String>,
    /// By port; `None` for one that was proven.
    pub(super) results: BTreeMap<u16, Option<NotReached>>,
    /// The checker's signed word, with the host that it is about: more than one for very many ports.
    pub(super) attestations: Vec<(String, Envelope)>,
    /// Until when all this counts.
    pub(super) until: Timestamp,
}

impl Answer {
    fn reached(&self, port: u16) -> bool {
        matches!(self.results.get(&port), Some(None))
    }
}

impl PortBoard {
    /// The ports of `config`, none of them known yet. `api_port` is the one that the API listens on.
    #[must_use]
    pub fn new(config: &Config, api_port: u16) -> Self {
        let access = config
            .port_range
            .clone()
            .filter_map(|port| u16::try_from(port).ok())
            .filter(|port| *port != api_port && *port != 0)
            .map(|port| (port, Local::Unknown))
            .collect();
        let checker =
            |url: &String| Checker { url: url.clone(), asking: false, answer: None, error: None };
        let state = State {
            verify: config.verify_ports,
            api: (api_port, Local::Unknown),
            access,
            checkers: if config.verify_ports {
                config.port_checkers.iter().map(checker).collect()
            } else {
                Vec::new()
            },
            quorum: config.port_check_quorum,
            forwarder_error: None,
            old_forwarder: None,
        };
        Self { state: Arc::new(Mutex::new(state)), changes: Arc::new(watch::Sender::new(0)) }
    }

    /// Rises whenever something is found out.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The access ports that may be given to a new VM: held here, and proven from outside unless
    /// nobody is to ask. In rising order; those that were given away are among them.
    #[must_use]
    pub fn usable(&self) -> Vec<u16> {
        self.look(State::usable)
    }

    /// Everything, for people.
    #[must_use]
    pub fn report(&self) -> PortsReport {
        self.look(State::report)
    }

    /// What the advertiser needs. `taken` are the ports that VMs have.
    #[must_use]
    pub fn summary(&self, taken: impl IntoIterator<Item = u16>) -> PortsSummary {
        let taken: BTreeSet<u16> = taken.into_iter().collect();
        self.look(|state| {
            let verification = state.verification();
            PortsSummary {
                free: state.usable().iter().filter(|port| !taken.contains(port)).count(),
                api_reachable: !state.verify || state.reached(state.api.0),
                verification,
                claim: state.claim(),
                attestations: state.attestations(),
            }
        })
    }

    /// The access ports that are offered.
    pub(super) fn offered(&self) -> BTreeSet<u16> {
        self.look(|state| state.access.keys().copied().collect())
    }

    /// The API's port.
    pub(super) fn api_port(&self) -> u16 {
        self.look(|state| state.api.0)
    }

    /// The ports to ask checkers about: the API's, and the access ports that are held.
    pub(super) fn to_check(&self) -> Vec<u16> {
        self.look(|state| {
            let held = state.access.iter().filter(|(_, local)| **local == Local::Held);
            std::iter::once(state.api.0).chain(held.map(|(port, _)| *port)).collect()
        })
    }

    /// Whether it should be asked again soon: a held port, or the API's, was not proven to as many
    /// checkers as are needed, or a checker could not be asked.
    pub(super) fn is_lacking(&self) -> bool {
        self.look(|state| state.checkers.iter().any(|checker| checker.error.is_some()))
            || self.to_check().into_iter().any(|port| !self.look(|state| state.reached(port)))
    }

    /// When the first of the answers has lived half its life, and when the first ends.
    pub(super) fn ages(&self) -> Option<(Timestamp, Timestamp)> {
        self.look(|state| {
            let half = |answer: &Answer| answer.at.plus(answer.until.since(answer.at) / 2);
            Some((state.answers().map(half).min()?, state.answers().map(|a| a.until).min()?))
        })
    }

    /// Forgets what no longer counts at `now`.
    pub(super) fn forget_expired(&self, now: Timestamp) {
        self.update(|state| {
            for checker in &mut state.checkers {
                checker.answer.take_if(|answer| answer.until <= now);
            }
        });
    }

    /// A forwarder of an earlier version runs, or none does any more.
    pub(super) fn set_old_forwarder(&self, which: Option<String>) {
        self.update(|state| state.old_forwarder = which);
    }

    /// The API answers here, or why it does not.
    pub(super) fn set_api(&self, local: Local) {
        self.update(|state| state.api.1 = local);
    }

    /// What the forwarder says about its ports. The ports that another program has, of which it is
    /// not known which, are returned.
    pub(super) fn set_access(&self, statuses: &[PortStatus]) -> BTreeSet<u16> {
        let by_port: BTreeMap<u16, &PortStatus> = statuses.iter().map(|s| (s.port, s)).collect();
        self.update(|state| {
            state.forwarder_error = None;
            for (port, local) in &mut state.access {
                let new = by_port.get(port).map_or(Local::Unknown, |status| local_of(status));
                // Who has it was found out with effort; it is kept while that is still so.
                let known = matches!((&new, &*local), (Local::Taken { .. }, Local::Taken { .. }));
                if !known {
                    *local = new;
                }
            }
        });
        let unknown = |local: &Local| matches!(local, Local::Taken { by: None });
        self.look(|state| {
            state.access.iter().filter(|(_, l)| unknown(l)).map(|(port, _)| *port).collect()
        })
    }

    /// Which programs have which ports.
    pub(super) fn set_holders(&self, holders: BTreeMap<u16, String>) {
        self.update(|state| {
            for (port, holder) in holders {
                if let Some(local @ Local::Taken { by: None }) = state.access.get_mut(&port) {
                    *local = Local::Taken { by: Some(holder) };
                }
            }
        });
    }

    /// The forwarder can't be told anything. `gone` when no port is held any more.
    pub(super) fn forwarder_failed(&self, error: &str, gone: bool) {
        self.update(|state| {
            state.forwarder_error = Some(error.to_owned());
            if gone {
                state.access.values_mut().for_each(|local| *local = Local::Unknown);
            }
        });
    }

    /// A checker is being asked.
    pub(super) fn asking(&self, url: &str) {
        self.update_checker(url, |checker| checker.asking = true);
    }

    /// A checker has answered.
    pub(super) fn answered(&self, url: &str, answer: Answer) {
        self.update_checker(url, |checker| {
            checker.asking = false;
            checker.error = None;
            checker.answer = Some(answer);
        });
    }

    /// A checker could not be asked. What it said before stays.
    pub(super) fn not_answered(&self, url: &str, error: &str) {
        self.update_checker(url, |checker| {
            checker.asking = false;
            checker.error = Some(error.to_owned());
        });
    }

    fn update_checker(&self, url: &str, change: impl FnOnce(&mut Checker)) {
        self.update(|state| {
            if let Some(checker) = state.checkers.iter_mut().find(|checker| checker.url == url) {
                change(checker);
            }
        });
    }

    fn look<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn update(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let before = state.clone();
        change(&mut state);
        let differs = *state != before;
        drop(state);
        if differs {
            self.changes.send_modify(|count| *count = count.wrapping_add(1));
        }
    }
}

impl State {
    fn answers(&self) -> impl Iterator<Item = &Answer> {
        self.checkers.iter().filter_map(|checker| checker.answer.as_ref())
    }

    /// Whether it was proven to as many checkers as are needed. Two URLs of one checker are one.
    fn reached(&self, port: u16) -> bool {
        let said = self.answers().filter(|answer| answer.reached(port));
        said.map(|answer| answer.checker).collect::<BTreeSet<_>>().len() >= self.quorum
    }

    /// The signed words, the last ones first.
    fn attestations(&self) -> Vec<(String, Envelope)> {
        let mut answers: Vec<&Answer> = self.answers().collect();
        answers.sort_by_key(|answer| std::cmp::Reverse(answer.at));
        answers.into_iter().flat_map(|answer| answer.attestations.clone()).collect()
    }

    fn usable(&self) -> Vec<u16> {
        let held = self.access.iter().filter(|(_, local)| **local == Local::Held);
        held.map(|(port, _)| *port).filter(|port| !self.verify || self.reached(*port)).collect()
    }

    fn verification(&self) -> Verification {
        if !self.verify {
            Verification::Off
        } else if self.checkers.is_empty() {
            Verification::NoCheckers
        } else if self.checkers.iter().any(|checker| checker.asking) {
            Verification::Checking
        } else if self.answers().next().is_some() {
            Verification::Done
        } else if self.checkers.iter().any(|checker| checker.error.is_some()) {
            Verification::Unanswered
        } else {
            Verification::Waiting
        }
    }

    /// The word of the checker that reached most; of several, of the one that looked last.
    fn claim(&self) -> Option<PortCheckClaim> {
        let claims = self.answers().map(|answer| {
            let reached = self.access.keys().filter(|port| answer.reached(**port)).count();
            PortCheckClaim {
                checker: answer.checker,
                checked_at: answer.at,
                api: answer.reached(self.api.0),
                vm_ports: u32::try_from(reached).unwrap_or(u32::MAX),
            }
        });
        claims.max_by_key(|claim| (claim.api, claim.vm_ports, claim.checked_at))
    }

    fn external(&self, port: u16) -> External {
        let mut reached: Option<(Vec<String>, Timestamp)> = None;
        let mut said = BTreeMap::new();
        for checker in &self.checkers {
            let Some(answer) = &checker.answer else { continue };
            match answer.results.get(&port) {
                None => {}
                Some(None) => {
                    let (by, at) = reached.get_or_insert_with(|| (Vec::new(), answer.at));
                    by.push(checker.url.clone());
                    *at = (*at).max(answer.at);
                }
                Some(Some(cause)) => {
                    said.insert(checker.url.clone(), cause.clone());
                }
            }
        }
        match reached {
            Some((by, at)) if self.reached(port) => External::Reached { by, at },
            Some((by, _)) => External::TooFew { by, needed: self.quorum },
            None if said.is_empty() => External::NotChecked,
            None => External::NotReached { said },
        }
    }

    fn report(&self) -> PortsReport {
        let port = |port: u16, local: &Local| PortReport {
            port,
            local: local.clone(),
            external: self.external(port),
        };
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let checker = |checker: &Checker| {
            let answer = checker.answer.as_ref();
            let results = answer.map(|answer| &answer.results);
            CheckerReport {
                url: checker.url.clone(),
                id: answer.map(|answer| answer.checker),
                asking: checker.asking,
                answered_at: answer.map(|answer| answer.at),
                asked: count(results.map_or(0, BTreeMap::len)),
                reached: count(results.map_or(0, |r| r.values().filter(|r| r.is_none()).count())),
                attested_until: answer
                    .filter(|answer| !answer.attestations.is_empty())
                    .map(|answer| answer.until),
                dialled: answer.and_then(|answer| answer.dialled.clone()),
                error: checker.error.clone(),
            }
        };
        PortsReport {
            verification: self.verification(),
            api: port(self.api.0, &self.api.1),
            access: self.access.iter().map(|(number, local)| port(*number, local)).collect(),
            checkers: self.checkers.iter().map(checker).collect(),
            forwarder_error: self.forwarder_error.clone(),
            old_forwarder: self.old_forwarder.clone(),
        }
    }
}

fn local_of(status: &PortStatus) -> Local {
    match &status.failure {
        _ if status.bound => Local::Held,
        None => Local::Unknown,
        Some(failure) => match failure.reason {
            BindFailureReason::InUse => Local::Taken { by: None },
            BindFailureReason::Permission => Local::NotAllowed,
            BindFailureReason::Address | BindFailureReason::Other => {
                Local::Failed { detail: printable(&failure.detail, 200) }
            }
        },
    }
}
