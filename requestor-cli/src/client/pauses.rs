//! Pauses that a server asks for (429, `Retry-After`): kept as far as a deadline allows, and told.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Most pauses in one call.
const MAX_PAUSES: u32 = 3;
/// Time that has to be left for asking again.
const LEAST_LEFT: Duration = Duration::from_secs(1);

/// Tells a person what a call waits for.
#[derive(Clone)]
pub struct Notice(Arc<dyn Fn(&str) + Send + Sync>);

impl Notice {
    /// Tells it by `tell`.
    #[must_use]
    pub fn new(tell: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(tell))
    }

    pub(super) fn tell(&self, text: &str) {
        (self.0)(text);
    }
}

impl fmt::Debug for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Notice")
    }
}

/// The pauses of one call.
#[derive(Debug)]
pub(super) struct Pauses {
    deadline: Duration,
    kept: u32,
}

impl Pauses {
    pub(super) const fn new(deadline: Duration) -> Self {
        Self { deadline, kept: 0 }
    }

    /// The pause to make, if one of `asked` still makes sense when `elapsed` of the deadline is over.
    pub(super) fn allow(&mut self, asked: Duration, elapsed: Duration) -> Option<Duration> {
        let wait = asked.max(Duration::from_secs(1));
        let left = self.deadline.saturating_sub(elapsed);
        if self.kept == MAX_PAUSES || wait.saturating_add(LEAST_LEFT) > left {
            return None;
        }
        self.kept += 1;
        Some(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_kept_within_the_deadline_and_not_without_end() {
        let seconds = Duration::from_secs;
        let mut pauses = Pauses::new(seconds(20));
        assert_eq!(pauses.allow(seconds(5), seconds(0)), Some(seconds(5)));
        assert_eq!(pauses.allow(seconds(15), seconds(5)), None);
        assert_eq!(pauses.allow(seconds(u64::MAX), seconds(5)), None);
        assert_eq!(pauses.allow(seconds(0), seconds(6)), Some(seconds(1)));
        assert_eq!(pauses.allow(seconds(1), seconds(7)), Some(seconds(1)));
        assert_eq!(pauses.allow(seconds(1), seconds(8)), None, "three are enough");
    }
}
