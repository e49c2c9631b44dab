//! Counters of what has gone to and from one VM through its port.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The counters of one route. They start with zero when the route leads to another VM.
#[derive(Debug)]
pub(super) struct Traffic {
    inwards: AtomicU64,
    outwards: AtomicU64,
    sessions: AtomicU64,
    unreachable: AtomicU64,
    last_activity: AtomicU64,
    /// When it was last used, in milliseconds of [`steady_ms`]; at first when it was made.
    used: AtomicU64,
}

impl Traffic {
    /// The counters of a route that is made now.
    pub(super) fn new() -> Self {
        Self {
            inwards: AtomicU64::new(0),
            outwards: AtomicU64::new(0),
            sessions: AtomicU64::new(0),
            unreachable: AtomicU64::new(0),
            last_activity: AtomicU64::new(0),
            used: AtomicU64::new(steady_ms()),
        }
    }

    /// Goes on to count where another program has stopped.
    pub(super) fn resumed(counts: Counts) -> Self {
        let quiet = u64::try_from(counts.quiet_for.as_millis()).unwrap_or(u64::MAX);
        Self {
            inwards: AtomicU64::new(counts.bytes_in),
            outwards: AtomicU64::new(counts.bytes_out),
            sessions: AtomicU64::new(counts.sessions),
            unreachable: AtomicU64::new(counts.unreachable),
            last_activity: AtomicU64::new(counts.last_activity_unix_ms.unwrap_or(0)),
            used: AtomicU64::new(steady_ms().saturating_sub(quiet)),
        }
    }

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

    /// An SSH client has used the route: a port checker's visits are not use.
    pub(super) fn used(&self) {
        self.used.store(steady_ms(), Ordering::Relaxed);
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
            quiet_for: Duration::from_millis(
                steady_ms().saturating_sub(self.used.load(Ordering::Relaxed)),
            ),
        }
    }
}

/// The counters at one moment.
#[derive(Debug, Clone, Copy, serde::Serialize, serde::Deserialize)]
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
    /// For how long no SSH client has used it.
    pub(super) quiet_for: Duration,
}

/// Milliseconds since 1970 UTC.
pub(super) fn unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
}

/// Milliseconds of a clock that nobody sets. It begins long before this program, so that what an earlier
/// one has seen has a time as well.
fn steady_ms() -> u64 {
    const EARLIER: u64 = 1 << 42;
    static BEGINNING: OnceLock<Instant> = OnceLock::new();
    let beginning = *BEGINNING.get_or_init(Instant::now);
    EARLIER + u64::try_from(beginning.elapsed().as_millis()).unwrap_or(u64::MAX - EARLIER)
}
