//! `golem-provider doctor`: is this machine fit to rent out, and if not, what to do about it.
//!
//! [`gather`] asks the engine, the disk, the ports and the other servers, all side by side, and
//! changes nothing. [`examine`] judges what was found: it is pure, so that every sentence can be
//! tested without the machine it is about.

mod books;
mod checks;
mod facts;
mod gather;
pub(crate) mod http_date;
mod local_ports;

use crate::control::messages::{Check, Verdict};

pub use facts::{
    BackendFacts, CapacityFacts, ClockFacts, DiskFacts, Facts, ForwarderFacts, InstanceFacts,
    KeyFacts, LookedAtPorts, Peer, PortsFacts, TakenPort, Trust,
};
pub use gather::{Running, Subject, gather};

/// Judges what was found. The checks come in the order in which things depend on each other.
#[must_use]
pub fn examine(facts: &Facts) -> Vec<Check> {
    let mut checks = checks::backends(facts);
    checks.push(checks::images(facts));
    checks.push(checks::clock(facts));
    checks.extend(checks::disk(facts));
    checks.extend(checks::stopped(facts));
    checks.push(checks::memory(facts));
    checks.push(checks::capacity(facts));
    checks.extend(checks::ledger(facts));
    checks.extend(checks::instances(facts));
    checks.push(checks::key(facts));
    checks.push(checks::forwarder(facts));
    checks.extend(checks::ports(facts));
    checks.extend(checks::checkers(facts));
    checks.extend(checks::discovery(facts));
    checks
}

/// The worst of the verdicts.
#[must_use]
pub fn verdict(checks: &[Check]) -> Verdict {
    checks.iter().map(|check| check.verdict).max().unwrap_or(Verdict::Good)
}

#[cfg(test)]
mod tests;
