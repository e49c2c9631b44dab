//! What makes the VMs: which it is, what it can do, and its guests contained, before anything is started.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use golem_vm_node::data_dir::DataDir;
use golem_vm_protocol::KeyPair;
use tokio_util::sync::CancellationToken;

use super::AppError;
use crate::backend::docker::DockerBackend;
use crate::backend::docker::endpoint::Surroundings;
use crate::backend::memory::MemoryBackend;
use crate::backend::multipass::{self, MultipassBackend};
use crate::backend::{
    Backend, BackendError, BackendKind, Containment, Found, InstanceId, Observation,
};
use crate::config::Config;
use crate::containment::Firewall;
use crate::store::ProviderStore;
use crate::vm::repository::VmRepository as _;

/// Connects to the backend that the settings name, or to the first that there is.
///
/// # Errors
/// [`BackendError::Unavailable`] when it does not answer.
pub async fn connect_backend(
    config: &Config,
    key: &KeyPair,
    data_dir: &DataDir,
) -> Result<Arc<dyn Backend>, BackendError> {
    match config.backend {
        Some(BackendKind::Memory) => {
            let backend = MemoryBackend::kept(data_dir.path()).await;
            Ok(Arc::new(backend.map_err(|error| BackendError::Unavailable(error.to_string()))?))
        }
        Some(BackendKind::Docker) | None => {
            let firewall = Firewall::new(&key.id(), config.network.rules());
            let backend =
                DockerBackend::connect(key.id(), &Surroundings::of_this_process(), firewall);
            let backend = backend.map_err(|error| BackendError::Unavailable(error.to_string()))?;
            Ok(Arc::new(backend.keeping(data_dir.path())))
        }
        Some(BackendKind::Multipass) => {
            let firewall = Firewall::on_bridge(
                &key.id(),
                multipass::BRIDGE,
                config.network.egress,
                config.network.rules(),
            );
            let backend = MultipassBackend::connect(key.id(), data_dir.path(), firewall);
            Ok(Arc::new(backend.map_err(|error| BackendError::Unavailable(error.to_string()))?))
        }
        Some(kind @ BackendKind::Qemu) => {
            Err(BackendError::Unavailable(format!("{kind} does not answer")))
        }
    }
}

/// What is known of the backend when the provider begins to serve.
pub(super) struct AtStart {
    /// What it can do.
    pub(super) found: Found,
    /// Whether that is from an earlier start, and has to be tried anew.
    pub(super) recalled: bool,
    /// What became of all instances; `None` where it could not be asked.
    pub(super) seen: Option<BTreeMap<InstanceId, Observation>>,
}

/// Finds out what the backend can do, or remembers it, and how all its instances are; and raises what contains
/// guests where that can be: before any guest is started, and with the addresses of those that run, so that
/// they lose nothing.
pub(super) async fn look(
    backend: &dyn Backend,
    store: &ProviderStore,
) -> Result<AtStart, AppError> {
    let (capabilities, recalled) = match backend.recall().await? {
        Some(capabilities) => (capabilities, true),
        None => (backend.probe().await?, false),
    };
    let seen = match backend.survey().await {
        Ok(seen) => Some(seen),
        // What can't be seen now is admitted when it is.
        Err(error) => {
            tracing::warn!("looking at all instances: {error}; this is tried again");
            None
        }
    };
    if let Some(guard) = backend.traffic_guard()
        && capabilities.containment == Containment::Contained
    {
        let records = store.all().await?;
        let quarantined = records.iter().filter(|record| record.quarantined_at.is_some());
        let raised = guard.raise(quarantined.map(|record| record.id).collect()).await;
        raised.map_err(AppError::Containment)?;
    }
    Ok(AtStart { found: Found::new(capabilities), recalled, seen })
}

/// Tries anew what was remembered, and has `found` say what is so. Nothing is lost meanwhile: what
/// contains guests was put there at the start, and is looked after whatever is found here.
pub(super) async fn try_anew(backend: Arc<dyn Backend>, found: Found, token: CancellationToken) {
    let begun = Instant::now();
    let probed = tokio::select! {
        () = token.cancelled() => return,
        probed = backend.probe() => probed,
    };
    match probed {
        Ok(capabilities) => {
            let before = found.now();
            if *before == capabilities {
                tracing::debug!(took = ?begun.elapsed(), "the backend can do what it could before");
                return;
            }
            if before.enforced != capabilities.enforced
                || before.containment != capabilities.containment
            {
                tracing::error!(
                    before = ?before.enforced, now = ?capabilities.enforced,
                    containment = ?capabilities.containment,
                    "the backend can't do any more what it could at an earlier start: what is offered follows"
                );
            }
            found.replace(capabilities);
        }
        Err(error) => {
            tracing::warn!(
                "trying anew what the backend can do: {error}; it is taken for what it was"
            );
        }
    }
}
