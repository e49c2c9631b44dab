//! Works without a running provider: takes its lock, so that none can start meanwhile.

use std::sync::Arc;

use anyhow::Context as _;
use golem_vm_node::clock::{Clock, SystemClock};
use golem_vm_node::data_dir::{DataDir, DataDirLock};
use golem_vm_node::key_file;
use golem_vm_protocol::KeyPair;

use super::place::PlaceArgs;
use crate::app;
use crate::backend::{BackendChoice, BackendKind, Backends};
use crate::config::Config;
use crate::images::ImageCatalog;
use crate::store::ProviderStore;

/// The provider's state, held exclusively.
pub(super) struct Offline {
    pub(super) data_dir: DataDir,
    pub(super) store: ProviderStore,
    pub(super) backends: Backends,
    key: KeyPair,
    config: Config,
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
        let store = open_store(&data_dir)?;
        let connected = app::connect_all(&config, &key, &data_dir, Some(&store)).await?;
        let backends = Backends::untried(connected);
        let images = catalog(&config, &store, &backends);
        Ok(Self { data_dir, store, backends, key, config, images, _lock: lock })
    }

    /// The backend that a new image is for.
    ///
    /// # Errors
    /// When none is named, and none can be chosen.
    pub(super) async fn backend_for_images(
        &self,
        named: Option<BackendKind>,
    ) -> anyhow::Result<Option<BackendKind>> {
        if named.is_some() {
            return Ok(named);
        }
        Ok(app::first_of(&self.config, &self.key, &self.data_dir, &self.store).await?)
    }

    /// Whether the settings name that backend.
    pub(super) fn names(&self, kind: BackendKind) -> bool {
        matches!(&self.config.backend, BackendChoice::Named(kinds) if kinds.contains(&kind))
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

fn catalog(config: &Config, store: &ProviderStore, backends: &Backends) -> ImageCatalog {
    ImageCatalog::new(
        Arc::new(store.clone()),
        backends.clone(),
        config.images.as_ref(),
        &config.default_image,
    )
}
