//! What is done every now and then.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::store::ProviderStore;
use crate::vm::repository::VmRepository as _;

/// How often it is written down which time it is: what is lost of a VM's time when the machine goes down.
const MARK: Duration = Duration::from_secs(60);
/// How often what is old is forgotten.
const FORGET: Duration = Duration::from_secs(600);

/// Writes down the time, and forgets old operations, histories and failed VMs, until `token` is cancelled.
pub(super) async fn run(store: ProviderStore, token: CancellationToken) {
    let mut mark = tokio::time::interval(MARK);
    let mut forget = tokio::time::interval(FORGET);
    loop {
        tokio::select! {
            () = token.cancelled() => return,
            _ = mark.tick() => {
                if let Err(error) = store.mark_time().await {
                    tracing::warn!("writing down the time: {error}");
                }
                continue;
            }
            _ = forget.tick() => {}
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
