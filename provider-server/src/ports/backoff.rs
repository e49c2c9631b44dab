//! How long to wait before something that failed is tried again.

use std::time::Duration;

/// Waits that double from `first` to `longest`, each with up to a fifth taken off at random, so
/// that many who failed together don't come back together.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    /// Waits from `first` to `longest`.
    pub(crate) const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first }
    }

    /// How long to wait now. The one after that is twice as long.
    pub(crate) fn next(&mut self) -> Duration {
        let wait = self.next.min(self.longest);
        self.next = wait.saturating_mul(2).min(self.longest);
        let mut byte = [0_u8];
        // Without randomness the wait is the full one, which is as good for a single provider.
        let _ = getrandom::fill(&mut byte);
        wait - wait / 5 * u32::from(byte[0]) / 255
    }

    /// Begins with the first wait again: it worked.
    pub(crate) const fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_begin_again() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(10));
        for full in [1, 2, 4, 8, 10, 10] {
            let full = Duration::from_secs(full);
            let wait = backoff.next();
            assert!(wait <= full && wait >= full * 4 / 5, "{wait:?} of {full:?}");
        }
        backoff.reset();
        assert!(backoff.next() <= Duration::from_secs(1));
    }
}
