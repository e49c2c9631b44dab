//! The two tasks that run beside the requests: following the feed, and clearing away what expired.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Registry;

/// How often the feed is asked for what other processes wrote.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Longest sleep of the sweeper, for clocks that are set and for graves.
const LONGEST_SLEEP: Duration = Duration::from_secs(300);

/// Follows the feed until `stop`.
pub async fn follow(registry: Arc<Registry>, stop: CancellationToken) {
    while sleep(POLL_INTERVAL, &stop).await {
        if let Err(error) = registry.catch_up().await {
            tracing::warn!("the change feed can't be read: {error}");
        }
    }
}

/// Sleeps until the next entry expires, at least for `interval`, sweeps, and so on until `stop`.
/// Nothing depends on it but the size of memory and database: what has expired is not listed,
/// swept or not.
pub async fn sweep(registry: Arc<Registry>, interval: Duration, stop: CancellationToken) {
    while sleep(pause(&registry, interval), &stop).await {
        match registry.sweep().await {
            Ok(0) => {}
            Ok(expired) => tracing::debug!(expired, "advertisements expired"),
            Err(error) => tracing::warn!("expired advertisements can't be cleared away: {error}"),
        }
    }
}

fn pause(registry: &Registry, interval: Duration) -> Duration {
    let until = registry.next_expiry().map(|next| next.since(registry.now()));
    until.unwrap_or(LONGEST_SLEEP).clamp(interval, LONGEST_SLEEP.max(interval))
}

/// Whether to go on.
async fn sleep(duration: Duration, stop: &CancellationToken) -> bool {
    tokio::select! {
        () = stop.cancelled() => false,
        () = tokio::time::sleep(duration) => true,
    }
}
