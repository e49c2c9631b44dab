//! What is done every now and then.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use golem_vm_node::data_dir::DataDir;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::own_log;
use crate::images::ImageCatalog;
use crate::store::ProviderStore;
use crate::vm::repository::VmRepository as _;

/// How often it is written down which time it is: what is lost of a VM's time when the machine goes down.
const MARK: Duration = Duration::from_secs(60);
/// How often what is old is forgotten.
const FORGET: Duration = Duration::from_secs(600);

/// Writes down the time, and forgets old operations, histories and failed VMs, until `token` is cancelled.
///
/// Images that nothing needs any more go in a task of their own: an engine that hangs keeps nothing else waiting.
pub(super) async fn run(
    store: ProviderStore,
    images: ImageCatalog,
    data_dir: DataDir,
    token: CancellationToken,
) {
    let tidying = tidy(store.clone(), images, token.clone());
    tokio::join!(forget(store, data_dir, token), tidying);
}

async fn tidy(store: ProviderStore, images: ImageCatalog, token: CancellationToken) {
    let mut timer = tokio::time::interval(FORGET);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = token.cancelled() => return,
            _ = timer.tick() => {}
        }
        let tidied = async {
            let records = store.all().await.map_err(|error| error.to_string())?;
            let mut of_vms = BTreeMap::<_, BTreeSet<_>>::new();
            for record in records {
                of_vms.entry(record.terms.backend).or_default().insert(record.terms.image_digest);
            }
            images.tidy(of_vms).await.map_err(|error| error.to_string())
        };
        tokio::select! {
            () = token.cancelled() => return,
            tidied = tidied => {
                if let Err(error) = tidied {
                    tracing::warn!("{error}; this is tried again");
                }
            }
        }
    }
}

async fn forget(store: ProviderStore, data_dir: DataDir, token: CancellationToken) {
    let mut mark = tokio::time::interval(MARK);
    let mut forget = tokio::time::interval(FORGET);
    loop {
        tokio::select! {
            () = token.cancelled() => return,
            _ = mark.tick() => {
                if let Err(error) = store.mark_time().await {
                    tracing::warn!("writing down the time: {error}");
                }
                own_log::bound(data_dir.path());
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
