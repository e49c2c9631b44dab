//! The whole service: from its configuration to its last reply.

use std::future::Future;
use std::sync::Arc;

use anyhow::Context as _;
use golem_vm_node::clock::Clock;
use golem_vm_node::data_dir::{DataDir, DataDirLock};
use golem_vm_node::http::{HttpLimits, HttpService, RateLimits, Recipients, Signing, bind};
use golem_vm_node::key_file;
use golem_vm_node::ready::Ready;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Config, DATABASE_DIR, PUBLIC_NAMES, SETTINGS};
use crate::http::{Api, class, router};
use crate::registry::{Registry, sweeper};
use crate::store::SqliteStore;

/// A service that is listening and does not serve yet.
#[derive(Debug)]
pub struct Server {
    ready: Ready,
    registry: Arc<Registry>,
    store: SqliteStore,
    listener: TcpListener,
    service: HttpService,
    cleanup_interval: std::time::Duration,
    // Held until the end: a second process stays off the directory.
    _lock: DataDirLock,
}

impl Server {
    /// Takes the data directory, reads key and database, and listens.
    ///
    /// # Errors
    /// A sentence about what can't be used, and what to do.
    pub async fn prepare(config: &Config, clock: Arc<dyn Clock>) -> anyhow::Result<Self> {
        let data_dir =
            DataDir::resolve(config.data_dir.as_deref(), SETTINGS.service, DATABASE_DIR)?;
        let lock = data_dir.lock()?;
        let key = key_file::load_or_create(&data_dir.key_path())?;
        let database = config.database_in(data_dir.path());
        let store = SqliteStore::open(&database)?;
        let policy = config.policy.clone();
        let registry = Registry::open(Arc::new(store.clone()), clock.clone(), policy)
            .await
            .with_context(|| format!("can't read the advertisements in {}", database.display()))?;
        let registry = Arc::new(registry);

        let listener = bind(&config.host, config.port).await?;
        let address = listener.local_addr().context("can't tell the address it listens on")?;
        let recipients = Recipients::service(&config.public_names, address);
        if recipients.is_empty() {
            tracing::warn!(
                "{PUBLIC_NAMES} is not set: requests that are signed for this server's host name are refused, so \
                 providers can't publish here; set it to the host:port under which they reach it"
            );
        }
        if config.policy.endpoints.unproven {
            tracing::warn!(
                "endpoints are listed without a proof: anybody can send requestors to anybody; for test networks only"
            );
        }
        if config.allow_unsigned {
            tracing::warn!(
                "unsigned providers are served: whoever comes first from an address has the id"
            );
        }
        let ready = Ready::new(SETTINGS.service, key.id(), address);
        let rates = RateLimits::new(config.rates, class, clock.clone());
        let served = data_dir.served_requests();
        let signing = Signing::new(key, recipients, clock)
            .remembering(&served)
            .with_context(|| format!("can't write {}", served.display()))?;
        let signing = Arc::new(signing);
        let api = Api { registry: registry.clone(), allow_unsigned: config.allow_unsigned };
        let service = HttpService::signed(router(api), HttpLimits::default(), signing)
            .behind(config.trusted_proxies.clone())
            .limited(rates);
        tracing::info!(
            id = %ready.id, database = %database.display(), listed = registry.len(), "listening on http://{address}"
        );
        let cleanup_interval = config.cleanup_interval;
        Ok(Self { ready, registry, store, listener, service, cleanup_interval, _lock: lock })
    }

    /// Where it listens and who it is.
    #[must_use]
    pub const fn ready(&self) -> &Ready {
        &self.ready
    }

    /// The registry behind it.
    #[must_use]
    pub const fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// Serves until `stop`, finishes open requests, and closes the database.
    pub async fn run(self, stop: CancellationToken) {
        let tasks = TaskTracker::new();
        let quiet = CancellationToken::new();
        spawn(&tasks, sweeper::follow(self.registry.clone(), quiet.clone()));
        spawn(&tasks, sweeper::sweep(self.registry.clone(), self.cleanup_interval, quiet.clone()));
        tasks.close();
        self.service.serve(self.listener, stop).await;
        quiet.cancel();
        tasks.wait().await;
        self.store.close().await;
        tracing::info!("stopped");
    }
}

fn spawn(tasks: &TaskTracker, task: impl Future<Output = ()> + Send + 'static) {
    tasks.spawn(task);
}
