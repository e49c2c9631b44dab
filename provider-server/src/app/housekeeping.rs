//! What is done every now and then.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::store::ProviderStore;
use crate::vm::repository::VmRepository as _;

/// How often what is old is forgotten.
const INTERVAL: Duration = Duration::from_secs(600);

/// Forgets old operations and failed VMs until `token` is cancelled.
pub(super) async fn run(store: ProviderStore, token: CancellationToken) {
    let mut timer = tokio::time::interval(INTERVAL);
    loop {
        tokio::select! {
            () = token.cancelled() => return,
            _ = timer.tick() => {}
        }
        if let Err(error) = store.forget_old().await {
            tracing::warn!("forgetting what is old: {error}");
        }
        match store.back_up_if_due().await {
            Ok(Some(copy)) => tracing::debug!("the database was copied to {}", copy.display()),
            Ok(None) => {}
            Err(error) => tracing::error!("the database was not backed up: {error}"),
        }
    }
}
