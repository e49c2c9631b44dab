//! Counters of what has gone to and from one VM through its port.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// The counters of one route. They start with zero when the route leads to another VM.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    inwards: AtomicU64,
    outwards: AtomicU64,
    sessions: AtomicU64,
    unreachable: AtomicU64,
    last_activity: AtomicU64,
}

impl Traffic {
    /// Bytes went to the VM.
    pub(super) fn inwards(&self, bytes: usize) {
        self.inwards.fetch_add(bytes as u64, Ordering::Relaxed);
        self.last_activity.store(unix_ms(), Ordering::Relaxed);
    }

    /// Bytes came from the VM.
    pub(super) fn outwards(&self, bytes: usize) {
        self.outwards.fetch_add(bytes as u64, Ordering::Relaxed);
        self.last_activity.store(unix_ms(), Ordering::Relaxed);
    }

    /// A session began.
    pub(super) fn began(&self) {
        self.sessions.fetch_add(1, Ordering::Relaxed);
    }

    /// A session ended because the VM could not be reached.
    pub(super) fn unreachable(&self) {
        self.unreachable.fetch_add(1, Ordering::Relaxed);
    }

    /// The counters now.
    pub(super) fn read(&self) -> Counts {
        let last = self.last_activity.load(Ordering::Relaxed);
        Counts {
            bytes_in: self.inwards.load(Ordering::Relaxed),
            bytes_out: self.outwards.load(Ordering::Relaxed),
            sessions: self.sessions.load(Ordering::Relaxed),
            unreachable: self.unreachable.load(Ordering::Relaxed),
            last_activity_unix_ms: (last != 0).then_some(last),
        }
    }
}

/// The counters at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counts {
    /// Bytes to the VM.
    pub(super) bytes_in: u64,
    /// Bytes from the VM.
    pub(super) bytes_out: u64,
    /// Sessions so far.
    pub(super) sessions: u64,
    /// Sessions that found no VM.
    pub(super) unreachable: u64,
    /// When a byte last went either way.
    pub(super) last_activity_unix_ms: Option<u64>,
}

/// Milliseconds since 1970 UTC.
pub(super) fn unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
}
