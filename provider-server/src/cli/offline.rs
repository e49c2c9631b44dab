//! Works without a running provider: takes its lock, so that none can start meanwhile.

use std::sync::Arc;

use anyhow::Context as _;
use golem_vm_node::clock::{Clock, SystemClock};
use golem_vm_node::data_dir::{DataDir, DataDirLock};
use golem_vm_node::key_file;

use super::place::PlaceArgs;
use crate::app;
use crate::backend::Backend;
use crate::config::Config;
use crate::images::ImageCatalog;
use crate::store::ProviderStore;

/// The provider's state, held exclusively.
pub(super) struct Offline {
    pub(super) data_dir: DataDir,
    pub(super) store: ProviderStore,
    pub(super) backend: Arc<dyn Backend>,
    pub(super) images: ImageCatalog,
    // Dropped last: nobody else may have the database while it is open.
    _lock: DataDirLock,
}

impl Offline {
    /// Takes the provider's state.
    ///
    /// # Errors
    /// Another process has it, or it can't be used.
    pub(super) async fn open(place: &PlaceArgs) -> anyhow::Result<Self> {
        let (config, data_dir) = place.open()?;
        let lock = data_dir.lock()?;
        let key = key_file::load_or_create(&data_dir.key_path())?;
        let backend = app::connect_backend(&config, &key, &data_dir).await?;
        let store = open_store(&data_dir)?;
        let images = catalog(&config, &store, &backend);
        Ok(Self { data_dir, store, backend, images, _lock: lock })
    }

    /// Finishes what was begun.
    pub(super) async fn close(self) {
        self.store.close().await;
    }
}

/// Opens the database; the lock has to be held.
pub(super) fn open_store(data_dir: &DataDir) -> anyhow::Result<ProviderStore> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    ProviderStore::open(&data_dir.state_db(), clock).context("the provider's database")
}

fn catalog(config: &Config, store: &ProviderStore, backend: &Arc<dyn Backend>) -> ImageCatalog {
    ImageCatalog::new(
        Arc::new(store.clone()),
        Arc::clone(backend),
        config.images.as_ref(),
        &config.default_image,
    )
}
