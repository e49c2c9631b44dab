//! Calls that can be made again when their answer was lost.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::client::provider::CallError;

const PAUSE: Duration = Duration::from_millis(500);

/// Makes a call until it is answered, for as long as `patience`.
///
/// # Errors
/// What the last one gave.
pub(super) async fn persistently<T>(
    patience: Duration,
    call: impl AsyncFn() -> Result<T, CallError>,
) -> Result<T, CallError> {
    let started = Instant::now();
    loop {
        match call().await {
            Err(error) if error.is_worth_a_retry() && started.elapsed() < patience => {
                sleep(PAUSE).await;
            }
            answer => return answer,
        }
    }
}
