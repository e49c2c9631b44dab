//! How often somebody may do something: the generic cell rate algorithm (ITU-T I.371), which is a
//! token bucket that needs one number for each caller.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// So many calls in a window: all of them at once if need be, and then evenly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Calls in a window; at least 1.
    pub calls: u32,
    /// The window.
    pub window: Duration,
}

impl Quota {
    /// So many calls in a minute; `None` for 0, which stands for no limit.
    #[must_use]
    pub fn per_minute(calls: u32) -> Option<Self> {
        (calls > 0).then_some(Self { calls, window: Duration::from_secs(60) })
    }

    /// Microseconds in which one call becomes free again.
    fn interval(&self) -> u64 {
        (self.window_micros() / u64::from(self.calls.max(1))).max(1)
    }

    fn window_micros(&self) -> u64 {
        u64::try_from(self.window.as_micros()).unwrap_or(u64::MAX).max(1)
    }
}

/// What a caller has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// Whether this call is within the quota.
    pub allowed: bool,
    /// Calls left right now.
    pub left: u32,
    /// Seconds, rounded up, until the whole quota is there again; after a refusal until one more
    /// call is.
    pub reset: u64,
}

/// Counts the calls of many callers in bounded memory.
///
/// When there is no room for a caller that is not known yet, the one that has used least of its
/// quota is forgotten, which gives it back that little. So a flood of callers frees nobody from a
/// limit that it has reached, and blocks nobody who is not part of it.
#[derive(Debug)]
pub struct RateLimiter<K> {
    quota: Quota,
    max_callers: usize,
    // A plain mutex: held for a few map operations, never across an await.
    state: Mutex<State<K>>,
}

#[derive(Debug)]
struct State<K> {
    /// When each caller's quota will be whole again, in microseconds since the epoch.
    whole_at: HashMap<K, u64>,
    /// The same, in the order of those times.
    in_order: BTreeSet<(u64, K)>,
}

impl<K: Hash + Ord + Clone> RateLimiter<K> {
    /// `quota` for each caller, of whom at most `max_callers` (about 150 bytes each) are remembered.
    #[must_use]
    pub fn new(quota: Quota, max_callers: usize) -> Self {
        let state = State { whole_at: HashMap::new(), in_order: BTreeSet::new() };
        Self { quota, max_callers: max_callers.max(1), state: Mutex::new(state) }
    }

    /// The quota of each caller.
    #[must_use]
    pub const fn quota(&self) -> Quota {
        self.quota
    }

    /// Counts one call of `caller` at `now` (microseconds since the epoch), if it is within the
    /// quota. A call that is refused costs nothing.
    pub fn take(&self, caller: &K, now: u64) -> Allowance {
        let (interval, window) = (self.quota.interval(), self.quota.window_micros());
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.forget_whole(now);
        let most = now.saturating_add(window);
        let mut known = state.whole_at.get(caller).copied();
        if known.is_some_and(|whole_at| whole_at > most) {
            // The clock was set back. That must lock nobody out for longer than a window.
            state.put(caller, most);
            known = Some(most);
        }
        let next = known.unwrap_or(now).max(now).saturating_add(interval);
        if next > most {
            return Allowance { allowed: false, left: 0, reset: seconds(next - most) };
        }
        if known.is_none() && state.whole_at.len() >= self.max_callers {
            state.forget_lightest();
        }
        state.put(caller, next);
        let left = u32::try_from((most - next) / interval).unwrap_or(u32::MAX);
        Allowance { allowed: true, left, reset: seconds(next - now) }
    }

    /// How many callers are remembered.
    #[must_use]
    pub fn callers(&self) -> usize {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).whole_at.len()
    }
}

impl<K: Hash + Ord + Clone> State<K> {
    fn put(&mut self, caller: &K, whole_at: u64) {
        if let Some(before) = self.whole_at.insert(caller.clone(), whole_at) {
            self.in_order.remove(&(before, caller.clone()));
        }
        self.in_order.insert((whole_at, caller.clone()));
    }

    /// Who has the whole quota again is like who was never seen.
    fn forget_whole(&mut self, now: u64) {
        while self.in_order.first().is_some_and(|(whole_at, _)| *whole_at <= now) {
            self.forget_lightest();
        }
    }

    fn forget_lightest(&mut self) {
        if let Some((_, caller)) = self.in_order.pop_first() {
            self.whole_at.remove(&caller);
        }
    }
}

/// Whole seconds, rounded up, at least 1.
fn seconds(micros: u64) -> u64 {
    micros.div_ceil(1_000_000).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;
    const NOW: u64 = 1_800_000_000 * SECOND;

    fn limiter(calls: u32, max_callers: usize) -> RateLimiter<u32> {
        RateLimiter::new(Quota { calls, window: Duration::from_secs(60) }, max_callers)
    }

    #[test]
    fn a_quota_can_be_used_at_once_and_comes_back_evenly() {
        let limiter = limiter(6, 100);
        for left in (0..6).rev() {
            let allowance = limiter.take(&1, NOW);
            assert!(allowance.allowed);
            assert_eq!((allowance.left, allowance.reset), (left, u64::from(6 - left) * 10));
        }
        let refused = Allowance { allowed: false, left: 0, reset: 10 };
        assert_eq!(limiter.take(&1, NOW), refused);
        assert_eq!(limiter.take(&1, NOW), refused, "a refusal costs nothing");
        assert!(limiter.take(&2, NOW).allowed, "somebody else has a quota of their own");
        assert_eq!(limiter.take(&1, NOW + 9_000_001).reset, 1);
        assert!(limiter.take(&1, NOW + 10 * SECOND).allowed);
        assert!(!limiter.take(&1, NOW + 10 * SECOND).allowed);
    }

    #[test]
    fn no_window_ever_has_more_than_two_quotas() {
        let limiter = limiter(7, 100);
        let mut allowed = 0;
        for tenth in 0..600 {
            allowed += u32::from(limiter.take(&1, NOW + tenth * SECOND / 10).allowed);
        }
        assert!((7..=14).contains(&allowed), "{allowed}");
    }

    #[test]
    fn callers_are_forgotten_when_their_quota_is_whole() {
        let limiter = limiter(6, 100);
        limiter.take(&1, NOW);
        limiter.take(&2, NOW);
        limiter.take(&3, NOW + 10 * SECOND);
        assert_eq!(limiter.callers(), 1);
    }

    #[test]
    fn a_flood_of_callers_takes_no_memory_and_frees_nobody() {
        let limiter = limiter(6, 50);
        while limiter.take(&0, NOW).allowed {}
        for caller in 1..10_000 {
            assert!(limiter.take(&caller, NOW).allowed, "nobody else is kept out");
        }
        assert_eq!(limiter.callers(), 50);
        assert!(!limiter.take(&0, NOW).allowed, "who used it up is still known");
    }

    #[test]
    fn a_clock_that_is_set_back_locks_out_for_one_window_at_most() {
        let limiter = limiter(6, 50);
        while limiter.take(&0, NOW).allowed {}
        let earlier = NOW - 86_400 * SECOND;
        assert!(!limiter.take(&0, earlier).allowed);
        assert!(limiter.take(&0, earlier + 60 * SECOND).allowed);
    }
}
