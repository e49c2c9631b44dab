//! How many sessions there may be.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Sessions at most on all ports, unless set otherwise.
pub const DEFAULT_MAX_SESSIONS: usize = 16_384;

/// Sessions at most on one port, unless set otherwise.
pub const DEFAULT_MAX_SESSIONS_PER_PORT: usize = 256;

/// What one port has room for.
#[derive(Debug, Clone, Copy)]
pub(super) struct PortLimits {
    /// Sessions.
    pub(super) sessions: usize,
    /// Those among them that have just come.
    pub(super) newcomers: usize,
}

/// Open files to ask for where the hard limit allows less: two sockets per session, and pipes for
/// those that are moving bytes.
const WANTED_FILES: u64 = 131_072;

/// Files that are not sessions': the runtime, logs, control connections, clients of ports that
/// lead nowhere.
const OTHER_FILES: u64 = 256 + super::waiting::OF_FREE_PORTS as u64;

/// More open files than this are not asked for: the kernel's own limit (`fs.nr_open`) is this one
/// unless changed, and asking for more than that fails.
const MOST_FILES: u64 = 1_048_576;

/// Raises the number of open files as far as this process may, and returns it.
pub(super) fn raise_open_files() -> u64 {
    let now = getrlimit(Resource::Nofile);
    let soft = now.current.unwrap_or(MOST_FILES);
    let hard = now.maximum.unwrap_or(MOST_FILES);
    // Root may raise the hard limit too.
    if hard < WANTED_FILES
        && setrlimit(
            Resource::Nofile,
            Rlimit { current: Some(WANTED_FILES), maximum: Some(WANTED_FILES) },
        )
        .is_ok()
    {
        return WANTED_FILES;
    }
    let reachable = hard.min(MOST_FILES);
    if soft < reachable
        && setrlimit(Resource::Nofile, Rlimit { current: Some(reachable), ..now }).is_ok()
    {
        return reachable;
    }
    soft
}

/// How many of the wanted sessions fit into the number of files, at least one.
pub(super) fn sessions_that_fit(wanted: usize, open_files: u64, ports: usize) -> usize {
    let left = open_files.saturating_sub(OTHER_FILES + ports as u64);
    // Two sockets each; bytes on their way use pipes as long as there are files left for them,
    // and ordinary memory when not.
    let fits = usize::try_from(left / 2).unwrap_or(usize::MAX);
    wanted.min(fits).max(1)
}

/// Counts what is open, up to a limit.
#[derive(Debug)]
pub(super) struct Gate {
    open: AtomicUsize,
    limit: usize,
}

impl Gate {
    /// A gate that lets `limit` through at once.
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { open: AtomicUsize::new(0), limit })
    }

    /// How many are inside.
    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// How many may be inside.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// Goes in, unless it is full.
    pub(super) fn enter(self: &Arc<Self>) -> Option<Inside> {
        self.open
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |open| {
                (open < self.limit).then_some(open + 1)
            })
            .ok()
            .map(|_| Inside { gate: Arc::clone(self) })
    }

    /// Goes in, also if it is full: one who was inside before.
    pub(super) fn enter_again(self: &Arc<Self>) -> Inside {
        self.open.fetch_add(1, Ordering::Relaxed);
        Inside { gate: Arc::clone(self) }
    }
}

/// A place inside a [`Gate`], given back when dropped.
#[derive(Debug)]
pub(super) struct Inside {
    gate: Arc<Gate>,
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.gate.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_gate_lets_in_as_many_as_it_may() {
        let gate = Gate::new(2);
        let first = gate.enter().unwrap();
        let _second = gate.enter().unwrap();
        assert!(gate.enter().is_none());
        drop(first);
        assert_eq!(gate.open(), 1);
        assert!(gate.enter().is_some());
    }

    #[test]
    fn few_files_mean_few_sessions() {
        assert_eq!(sessions_that_fit(16_384, 1_048_576, 100), 16_384);
        assert_eq!(sessions_that_fit(16_384, 4096, 100), (4096 - 1280 - 100) / 2);
        assert_eq!(sessions_that_fit(16_384, 10, 100), 1);
    }
}
