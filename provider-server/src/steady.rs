//! Time that never goes back and never jumps: what leases are counted in.
//!
//! While the machine is up, it is the machine's time since its boot, sleep included. It is written down
//! from time to time, so that another start of the program goes on from there; over a boot, the wall
//! clock says how long the machine was off, and if it says less than nothing, nothing is taken.

use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use golem_vm_protocol::time::Timestamp;

/// A moment of steady time, in microseconds. It began with the wall time of the provider's first start,
/// and means nothing outside of this provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SteadyTime(u64);

impl SteadyTime {
    /// From microseconds.
    #[must_use]
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// In microseconds.
    #[must_use]
    pub const fn micros(self) -> u64 {
        self.0
    }

    /// This moment, `span` later; saturates.
    #[must_use]
    pub fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(micros(span)))
    }

    /// How long ago `earlier` was at this moment; zero if it was not.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// What the wall clock shows at this moment, if it shows `wall` at `now`.
    #[must_use]
    pub fn on_the_wall(self, now: Self, wall: Timestamp) -> Timestamp {
        let ahead = i128::from(self.0) - i128::from(now.0);
        let micros = i128::from(wall.unix_micros()) + ahead;
        Timestamp::from_unix_micros(i64::try_from(micros).unwrap_or(i64::MAX))
    }
}

/// Shows moments of steady time by the wall clock: the same one always as the same, until somebody sets the
/// clock. The two clocks are read one after the other, and one of them is slewed.
#[derive(Debug, Default)]
pub struct WallView(Mutex<Option<i64>>);

impl WallView {
    /// By how much, in microseconds, the two may come apart before the clock counts as set.
    const APART: i64 = 1_000_000;

    /// What the wall clock shows at `now`, read as `wall`.
    #[must_use]
    pub fn at(&self, now: SteadyTime, wall: Timestamp) -> Timestamp {
        let steady = i64::try_from(now.0).unwrap_or(i64::MAX);
        let measured = wall.unix_micros().saturating_sub(steady);
        let mut ahead = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let used = ahead.filter(|used| used.abs_diff(measured) < Self::APART.unsigned_abs());
        let used = *ahead.insert(used.unwrap_or(measured));
        Timestamp::from_unix_micros(steady.saturating_add(used))
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

/// Tells steady time.
pub trait SteadyClock: Send + Sync + fmt::Debug {
    /// This moment.
    fn now(&self) -> SteadyTime;
}

/// What a machine knows of its own running.
pub trait Uptime: Send + Sync + fmt::Debug {
    /// Names the boot: another one after each. Empty where that can't be told.
    fn boot_id(&self) -> String;

    /// How long the machine has been up, sleep included.
    fn since_boot(&self) -> Duration;
}

/// This machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct ThisMachine;

impl Uptime for ThisMachine {
    fn boot_id(&self) -> String {
        // Only Linux has it (`man 5 proc_sys_kernel`).
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        text.trim().to_owned()
    }

    fn since_boot(&self) -> Duration {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        let clock = rustix::time::ClockId::Boottime;
        // Elsewhere it counts sleep already, or there is nothing better.
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        let clock = rustix::time::ClockId::Monotonic;
        let time = rustix::time::clock_gettime(clock);
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
    }
}

/// A machine whose time a test tells.
#[derive(Debug, Default)]
pub struct ManualUptime(Mutex<(String, Duration)>);

impl ManualUptime {
    /// Lets time pass.
    pub fn advance(&self, span: Duration) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1 += span;
    }

    /// Boots it again, under another name.
    pub fn boot(&self, id: &str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (id.to_owned(), Duration::ZERO);
    }
}

impl Uptime for ManualUptime {
    fn boot_id(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    fn since_boot(&self) -> Duration {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1
    }
}

/// What is written down, so that time goes on from there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anchor {
    /// In which boot.
    pub boot_id: String,
    /// How long that had lasted.
    pub since_boot: Duration,
    /// Which steady time it was.
    pub steady: SteadyTime,
    /// What the wall clock showed, in microseconds since the Unix epoch.
    pub wall_micros: u64,
}

/// Steady time of a machine, gone on with from an [`Anchor`].
#[derive(Debug, Clone)]
pub struct AnchoredClock {
    uptime: Arc<dyn Uptime>,
    boot_id: String,
    at_start: (SteadyTime, Duration),
    booted: bool,
}

impl AnchoredClock {
    /// Goes on from `anchor`, or begins with the wall clock.
    #[must_use]
    pub fn resume(anchor: Option<&Anchor>, uptime: Arc<dyn Uptime>, wall_micros: u64) -> Self {
        let (boot_id, up) = (uptime.boot_id(), uptime.since_boot());
        let same_boot = |anchor: &&Anchor| {
            !boot_id.is_empty() && anchor.boot_id == boot_id && up >= anchor.since_boot
        };
        let steady = match anchor {
            None => SteadyTime(wall_micros),
            Some(anchor) if same_boot(&anchor) => anchor.steady.plus(up - anchor.since_boot),
            Some(anchor) => {
                let off = wall_micros.saturating_sub(anchor.wall_micros);
                anchor.steady.plus(Duration::from_micros(off))
            }
        };
        let booted = anchor.as_ref().is_some_and(|anchor| !same_boot(anchor));
        Self { uptime, boot_id, at_start: (steady, up), booted }
    }

    /// Whether the machine was booted since the anchor was written.
    #[must_use]
    pub const fn booted(&self) -> bool {
        self.booted
    }

    /// What is to be written down now.
    #[must_use]
    pub fn anchor(&self, wall_micros: u64) -> Anchor {
        let since_boot = self.uptime.since_boot();
        Anchor {
            boot_id: self.boot_id.clone(),
            since_boot,
            steady: self.at(since_boot),
            wall_micros,
        }
    }

    fn at(&self, since_boot: Duration) -> SteadyTime {
        self.at_start.0.plus(since_boot.saturating_sub(self.at_start.1))
    }
}

impl SteadyClock for AnchoredClock {
    fn now(&self) -> SteadyTime {
        self.at(self.uptime.since_boot())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const DAY_MICROS: u64 = 24 * 3600 * 1_000_000;
    const WALL: u64 = 1_795_000_000_000_000;

    fn machine(boot: &str, up: Duration) -> Arc<ManualUptime> {
        let machine = ManualUptime::default();
        machine.boot(boot);
        machine.advance(up);
        Arc::new(machine)
    }

    fn resumed(anchor: &Anchor, boot: &str, up: Duration, wall: u64) -> AnchoredClock {
        AnchoredClock::resume(Some(anchor), machine(boot, up), wall)
    }

    #[test]
    fn a_moment_is_shown_as_the_same_until_the_clock_is_set() {
        let view = WallView::default();
        let wall = |micros: u64| Timestamp::from_unix_micros(i64::try_from(micros).unwrap_or(0));
        let shown = |micros: u64, read: u64| {
            let now = SteadyTime::from_micros(micros);
            SteadyTime::from_micros(1_000_000_000).on_the_wall(now, view.at(now, wall(read)))
        };
        let first = shown(5_000_000, WALL);
        assert_eq!(shown(5_000_003, WALL + 1), first);
        assert_eq!(shown(9_000_000, WALL + 4_900_000), first);
        let later = shown(10_000_000, WALL + 65_000_000);
        assert_eq!(later.since(first), Duration::from_secs(60));
        assert_eq!(shown(10_000_000, WALL + 65_000_002), later);
        assert_eq!(shown(10_000_000, WALL + 5_000_000), first);
    }

    #[test]
    fn a_wall_clock_that_jumps_moves_nothing() {
        let machine = machine("a", HOUR);
        let clock = AnchoredClock::resume(None, Arc::clone(&machine) as _, WALL);
        assert_eq!(clock.now(), SteadyTime(WALL));
        machine.advance(HOUR);
        let anchor = clock.anchor(WALL + DAY_MICROS);
        assert_eq!(anchor.steady, SteadyTime(WALL).plus(HOUR));
        // Another start in the same boot, the clock a day back.
        let again = resumed(&anchor, "a", HOUR * 3, WALL - DAY_MICROS);
        assert_eq!(again.now(), SteadyTime(WALL).plus(HOUR * 2));
        assert!(!again.booted());
    }

    #[test]
    fn over_a_boot_the_wall_clock_counts_and_never_backwards() {
        let anchor = Anchor {
            boot_id: "a".to_owned(),
            since_boot: HOUR,
            steady: SteadyTime(5_000_000),
            wall_micros: WALL,
        };
        let later = resumed(&anchor, "b", HOUR / 60, WALL + 7_000_000);
        assert_eq!(later.now(), SteadyTime(12_000_000));
        assert!(later.booted());
        let back = resumed(&anchor, "b", HOUR / 60, WALL - DAY_MICROS);
        assert_eq!(back.now(), SteadyTime(5_000_000));
        // Where no boot can be told from another, each start counts as one.
        let nameless = Anchor { boot_id: String::new(), ..anchor };
        assert!(resumed(&nameless, "", HOUR * 2, WALL).booted());
    }

    #[test]
    fn moments_are_shown_by_the_wall_clock_as_it_is_now() {
        let now = SteadyTime(10_000_000);
        let wall = Timestamp::from_unix_seconds(1_000);
        assert_eq!(now.plus(HOUR).on_the_wall(now, wall), Timestamp::from_unix_seconds(4_600));
        assert_eq!(SteadyTime(0).on_the_wall(now, wall), Timestamp::from_unix_seconds(990));
        assert_eq!(now.since(now.plus(HOUR)), Duration::ZERO);
    }
}
