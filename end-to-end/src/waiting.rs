//! Waiting for what happens soon, never for a fixed time.

use std::time::{Duration, Instant};

/// Asks until there is an answer; `None` when there is none within `limit`.
pub fn within<T>(limit: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if began.elapsed() >= limit {
            return None;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Waits until `what` has come true, at most 60 s: far longer than anything takes that works.
pub fn eventually(what: &str, mut is_true: impl FnMut() -> bool) {
    assert!(
        within(Duration::from_secs(60), || is_true().then_some(())).is_some(),
        "not within 60 s: {what}"
    );
}
