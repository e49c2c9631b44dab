//! One backend: connected, asked what it can do, and its guests contained, before anything is started.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use golem_vm_node::data_dir::DataDir;
use golem_vm_protocol::KeyPair;
use tokio_util::sync::CancellationToken;

use crate::backend::docker::DockerBackend;
use crate::backend::docker::endpoint::Surroundings;
use crate::backend::memory::MemoryBackend;
use crate::backend::multipass::{self, MultipassBackend};
use crate::backend::qemu::{Owner, QemuBackend};
use crate::backend::{
    Backend, BackendError, BackendKind, Capabilities, Containment, Found, InstanceId, Observation,
    Present,
};
use crate::config::Config;
use crate::containment::Firewall;
use crate::store::ProviderStore;
use crate::vm::VmError;
use crate::vm::repository::VmRepository as _;

/// Connects to a backend. What it is connected to may be down: every call finds out for itself.
///
/// # Errors
/// [`BackendError::Unavailable`] when it can't be spoken to from here.
pub async fn connect_backend(
    kind: BackendKind,
    config: &Config,
    key: &KeyPair,
    data_dir: &DataDir,
) -> Result<Arc<dyn Backend>, BackendError> {
    match kind {
        BackendKind::Memory => {
            let backend = MemoryBackend::kept(data_dir.path()).await;
            Ok(Arc::new(backend.map_err(|error| BackendError::Unavailable(error.to_string()))?))
        }
        BackendKind::Docker => {
            let firewall = Firewall::new(&key.id(), config.network.rules());
            let backend =
                DockerBackend::connect(key.id(), &Surroundings::of_this_process(), firewall);
            let backend = backend.map_err(|error| BackendError::Unavailable(error.to_string()))?;
            Ok(Arc::new(backend.keeping(data_dir.path())))
        }
        BackendKind::Multipass => {
            let firewall = Firewall::on_bridge(
                &key.id(),
                multipass::BRIDGE,
                config.network.egress,
                config.network.rules(),
            );
            let backend = MultipassBackend::connect(key.id(), data_dir.path(), firewall);
            Ok(Arc::new(backend.map_err(|error| BackendError::Unavailable(error.to_string()))?))
        }
        BackendKind::Qemu => {
            let mut rules = config.network.rules();
            if config.network.resolvers.is_none() {
                // Guests ask the host's own through their uplink, wherever it is.
                rules.resolvers.clear();
            }
            let owner = Owner {
                rules,
                disk_reserve_mib: config.disk_reserve_mib,
                templates_mib: config.templates_mib,
            };
            Ok(Arc::new(QemuBackend::connect(data_dir.path(), owner).await?))
        }
    }
}

/// Why a backend makes no VMs now.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotThere {
    /// It could not be asked.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// Its guests can't be contained after all.
    #[error("guests can't be contained: {0}")]
    Containment(String),
    /// The VMs can't be read.
    #[error(transparent)]
    Vms(#[from] VmError),
}

/// A backend that was asked what it can do. Nothing has been changed for it yet.
pub(super) struct Asked {
    /// It.
    pub(super) backend: Arc<dyn Backend>,
    /// What it can do.
    pub(super) capabilities: Capabilities,
    /// Whether that is from an earlier start, and has to be tried anew.
    pub(super) recalled: bool,
}

/// Finds out what a backend can do, or remembers it.
pub(super) async fn ask(backend: Arc<dyn Backend>) -> Result<Asked, BackendError> {
    let (capabilities, recalled) = match backend.recall().await? {
        Some(capabilities) => (capabilities, true),
        None => (backend.probe().await?, false),
    };
    Ok(Asked { backend, capabilities, recalled })
}

/// A backend that makes VMs from now on.
pub(super) struct Arrived {
    /// It.
    pub(super) present: Present,
    /// Whether what it can do is from an earlier start, and has to be tried anew.
    pub(super) recalled: bool,
    /// What became of all its instances; `None` where that could not be asked.
    pub(super) seen: Option<BTreeMap<InstanceId, Observation>>,
}

/// Looks at all its instances, and raises what contains guests where that can be: before any guest is
/// started, and with the addresses of those that run, so that they lose nothing.
pub(super) async fn enter(asked: Asked, store: &ProviderStore) -> Result<Arrived, NotThere> {
    let Asked { backend, capabilities, recalled } = asked;
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
        raised.map_err(NotThere::Containment)?;
    }
    let found = Found::new(capabilities);
    Ok(Arrived { present: Present { backend, found }, recalled, seen })
}

/// Tries anew what was remembered, and has `found` say what is so. Nothing is lost meanwhile: what
/// contains guests was put there at the start, and is looked after whatever is found here.
pub(super) async fn try_anew(present: Present, token: CancellationToken) {
    let Present { backend, found } = present;
    let (begun, kind) = (Instant::now(), backend.kind());
    let probed = tokio::select! {
        () = token.cancelled() => return,
        probed = backend.probe() => probed,
    };
    match probed {
        Ok(capabilities) => {
            let before = found.now();
            if *before == capabilities {
                tracing::debug!(%kind, took = ?begun.elapsed(), "the backend can do what it could before");
                return;
            }
            if before.enforced != capabilities.enforced
                || before.containment != capabilities.containment
                || before.accel_word() != capabilities.accel_word()
            {
                tracing::error!(
                    %kind, before = ?before.enforced, now = ?capabilities.enforced,
                    containment = ?capabilities.containment, accel = capabilities.accel_word(),
                    "the backend can't do any more what it could at an earlier start: what is offered follows"
                );
            }
            found.replace(capabilities);
        }
        Err(error) => {
            tracing::warn!(
                %kind, "trying anew what the backend can do: {error}; it is taken for what it was"
            );
        }
    }
}
