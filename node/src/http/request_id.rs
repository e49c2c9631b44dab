//! The id that ties a reply to its lines in the log.

use std::sync::atomic::{AtomicU64, Ordering};

/// A request's id: in the header `x-request-id` of the reply, in `request_id` of a problem, and in
/// every log line of the request. An extension of every request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(String);

impl RequestId {
    /// A fresh one.
    pub(crate) fn fresh() -> Self {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let mut bytes = [0; 8];
        // It only has to be distinguishable; a counter does where there is no randomness.
        if getrandom::fill(&mut bytes).is_err() {
            bytes = COUNTER.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        }
        Self(format!("req_{:016x}", u64::from_be_bytes(bytes)))
    }

    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for RequestId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}
