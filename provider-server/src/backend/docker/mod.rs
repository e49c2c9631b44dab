//! Containers on a Docker Engine (or what speaks its API), made over that API. No program of
//! Docker's is ever started.
//!
//! | module | what it holds |
//! |---|---|
//! | [`endpoint`] | which engine is meant |
//! | `engine` | calls with deadlines, failures told apart |
//! | `spec`, `files` | what a container is made from: limits, labels; host key, authorised keys |
//! | `instance`, `observation` | the life of a container; what the engine tells of it |
//! | `network` | the provider's networks |
//! | `metering` | what a container uses |
//! | `probe`, `remembered` | what the engine can do; what it could at the last start |
//! | `trial`, `guest` | what a guest is seen to be allowed |
//! | `disk` | the size of a guest's disk |
//! | `images`, `tags`, `pull` | images, their names, and how they are fetched |
//! | `recipe`, `base`, `build`, `proxy`, `progress` | how they are made |

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use golem_vm_protocol::KeyId;
use golem_vm_protocol::vm::SshPublicKey;
use tokio::sync::{Mutex, OnceCell};

use super::{
    Backend, BackendError, BackendKind, Capabilities, DiskWatch, ImageStore, InstanceId,
    InstanceSpec, Metering, Observation, Usage,
};

mod base;
mod build;
mod disk;
pub mod endpoint;
mod engine;
mod files;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod guest;
mod images;
mod instance;
mod kept_file;
mod metering;
mod network;
mod observation;
mod probe;
mod progress;
mod proxy;
mod pull;
mod recipe;
mod remembered;
mod spec;
mod tags;
mod trial;

use crate::containment::{Firewall, Guest};
use endpoint::{Disk, Endpoint, EndpointError, Surroundings};
use engine::{CallError, Engine};
use instance::Instances;
use metering::Meter;
use probe::EngineTraits;
use remembered::Memory;
use spec::Network;

/// One provider's part of one engine.
#[derive(Debug)]
pub struct DockerBackend {
    engine: Arc<Engine>,
    provider: KeyId,
    traits: OnceCell<EngineTraits>,
    firewall: Arc<Firewall>,
    meter: Meter,
    /// Where the engine keeps its data.
    root: OnceCell<Option<PathBuf>>,
    /// Whether the engine gives disks a size. Held while something is tried.
    trials: Mutex<DiskTrial>,
    /// Where what is found is kept, if it is.
    memory: Option<Memory>,
    /// Held while a network is made.
    networks: Mutex<()>,
    /// Held while an image is built.
    builds: Mutex<()>,
}

impl DockerBackend {
    /// Chooses the engine. Nothing is sent to it yet, and it may be down: every call finds out for
    /// itself, and finds it again after a restart.
    ///
    /// # Errors
    /// When the environment names an engine that can't be spoken to from here.
    pub fn connect(
        provider: KeyId,
        around: &Surroundings,
        firewall: Arc<Firewall>,
    ) -> Result<Self, EndpointError> {
        let endpoint = Endpoint::choose(around, &Disk)?;
        Ok(Self {
            engine: Arc::new(Engine::new(endpoint)),
            provider,
            traits: OnceCell::new(),
            firewall,
            meter: Meter::default(),
            root: OnceCell::new(),
            trials: Mutex::default(),
            memory: None,
            networks: Mutex::new(()),
            builds: Mutex::new(()),
        })
    }

    /// The same, with what it finds out about the engine kept in files in this directory.
    #[must_use]
    pub fn keeping(mut self, directory: &Path) -> Self {
        self.memory = Some(Memory::in_directory(directory));
        self
    }

    /// The engine that was chosen, and why.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        self.engine.endpoint()
    }

    /// What tells this engine from all others, for as long as its data exists. A provider that finds
    /// another engine than the last time must not conclude that its instances are gone.
    ///
    /// # Errors
    /// [`BackendError::Unavailable`] when the engine does not answer.
    pub async fn engine_identity(&self) -> Result<String, BackendError> {
        let info = probe::info(&self.engine).await;
        let info = info.map_err(|error| error.into_backend("can't ask the engine for its id"))?;
        info.id.filter(|id| !id.is_empty()).ok_or_else(|| {
            BackendError::Failed("the engine doesn't say which one it is".to_owned())
        })
    }

    fn instances(&self) -> Instances<'_> {
        Instances { engine: &self.engine, provider: &self.provider }
    }

    /// Has the firewall know the address that a guest has now, or that it has none.
    async fn heard(&self, id: InstanceId, guest: Option<Guest>) -> Result<(), BackendError> {
        let known = match guest {
            Some(guest) => self.firewall.admit(id.vm(), guest).await,
            None => self.firewall.dismiss(id.vm()).await,
        };
        known.map_err(not_contained)
    }

    async fn traits(&self) -> Result<EngineTraits, BackendError> {
        let traits = self.traits.get_or_try_init(|| probe::traits(&self.engine)).await;
        let what = "can't ask the engine about itself";
        traits.copied().map_err(|error| error.into_backend(what))
    }

    /// Tried once: what was advertised for it stays true for as long as this program runs.
    async fn disk(&self) -> Result<disk::Tried, BackendError> {
        let mut known = self.trials.lock().await;
        if let DiskTrial::Recalled(tried) | DiskTrial::Done(tried) = &*known {
            return Ok(tried.clone());
        }
        let tried = disk::try_quota(&self.engine, &self.provider).await?;
        *known = DiskTrial::Done(tried.clone());
        Ok(tried)
    }

    /// The surroundings in which something is found or was.
    async fn surroundings(&self) -> Result<String, CallError> {
        let engine = &self.engine;
        let (info, version, image) = tokio::try_join!(
            probe::info(engine),
            probe::version(engine),
            trial::own_image(engine, &self.provider)
        )?;
        let _ = self.traits.set(EngineTraits::here(&info));
        let (address, rules) = (&self.endpoint().address, self.firewall.rules());
        Ok(remembered::surroundings(address, &info, &version, rules, image.as_deref()))
    }
}

/// What is known of the disk's size.
#[derive(Debug, Default)]
enum DiskTrial {
    /// Nothing yet.
    #[default]
    Unknown,
    /// What was found at an earlier start.
    Recalled(disk::Tried),
    /// What was found now.
    Done(disk::Tried),
}

fn not_contained(reason: String) -> BackendError {
    BackendError::Unavailable(format!("guests can't be contained at the moment: {reason}"))
}

#[async_trait]
impl Backend for DockerBackend {
    fn kind(&self) -> BackendKind {
        BackendKind::Docker
    }

    async fn probe(&self) -> Result<Capabilities, BackendError> {
        let asked = "can't ask the engine about itself";
        let surroundings = self.surroundings().await.map_err(|error| error.into_backend(asked))?;
        let _one_at_a_time = self.networks.lock().await;
        let mut trial = self.trials.lock().await;
        let disk = match &*trial {
            DiskTrial::Done(tried) => tried.clone(),
            DiskTrial::Unknown | DiskTrial::Recalled(_) => {
                disk::try_quota(&self.engine, &self.provider).await?
            }
        };
        *trial = DiskTrial::Done(disk.clone());
        let probed = probe::probe(&self.engine, &self.provider, &disk, &self.firewall);
        let capabilities = Box::pin(probed).await?;
        if let Some(memory) = &self.memory {
            memory.keep(surroundings, &capabilities, &disk);
        }
        Ok(capabilities)
    }

    async fn recall(&self) -> Result<Option<Capabilities>, BackendError> {
        let Some(memory) = &self.memory else { return Ok(None) };
        let asked = "can't ask the engine about itself";
        let surroundings = self.surroundings().await.map_err(|error| error.into_backend(asked))?;
        let Some(found) = memory.recall(&surroundings) else { return Ok(None) };
        let mut trial = self.trials.lock().await;
        if matches!(*trial, DiskTrial::Unknown) {
            *trial = DiskTrial::Recalled(found.disk);
        }
        Ok(Some(found.capabilities))
    }

    async fn ensure(&self, spec: &InstanceSpec) -> Result<(), BackendError> {
        let traits = self.traits().await?;
        let disk = self.disk().await?;
        let egress = spec.confinement.egress;
        let network = {
            let _one_at_a_time = self.networks.lock().await;
            network::ensure(&self.engine, &self.provider, egress).await?
        };
        // The engine's own choice where its guests are not contained: it may be in another network.
        let resolvers = match self.firewall.is_raised().await {
            true => self.firewall.rules().resolvers.as_slice(),
            false => &[],
        };
        let network = Network { name: &network, resolvers };
        Box::pin(self.instances().ensure(spec, network, traits, &disk)).await
    }

    async fn start(&self, id: InstanceId) -> Result<(), BackendError> {
        self.firewall.hold().await.map_err(not_contained)?;
        self.instances().start(id).await?;
        let (_, guest) = self.instances().observe(id).await?;
        self.heard(id, guest).await
    }

    async fn authorize(&self, id: InstanceId, keys: &[SshPublicKey]) -> Result<(), BackendError> {
        self.instances().authorize(id, keys).await
    }

    async fn stop(&self, id: InstanceId, grace: Duration) -> Result<(), BackendError> {
        self.instances().stop(id, grace).await?;
        self.heard(id, None).await
    }

    async fn destroy(&self, id: InstanceId) -> Result<(), BackendError> {
        self.meter.forget(id);
        self.instances().destroy(id).await?;
        self.heard(id, None).await
    }

    async fn observe(&self, id: InstanceId) -> Result<Observation, BackendError> {
        let (observation, guest) = self.instances().observe(id).await?;
        // The engine has answered, whatever became of the firewall.
        if let Err(error) = self.heard(id, guest).await {
            tracing::warn!(instance = %id, "{error}");
        }
        Ok(observation)
    }

    async fn list(&self) -> Result<Vec<InstanceId>, BackendError> {
        Ok(self.instances().survey().await?.into_keys().collect())
    }

    async fn survey(&self) -> Result<BTreeMap<InstanceId, Observation>, BackendError> {
        let seen = self.instances().survey().await?;
        let guests = seen.iter().filter_map(|(id, (_, guest))| Some((id.vm(), (*guest)?)));
        self.firewall.expect(guests).await;
        Ok(seen.into_iter().map(|(id, (observation, _))| (id, observation)).collect())
    }

    async fn clean_up(&self) -> Result<(), BackendError> {
        let _one_at_a_time = self.networks.lock().await;
        let _no_build = self.builds.lock().await;
        let trial = disk::remove(&self.engine, &self.provider).await;
        trial.map_err(|error| error.into_backend("can't remove what a trial left"))?;
        network::remove_all(&self.engine, &self.provider).await?;
        self.firewall.remove().await.map_err(BackendError::Failed)?;
        let swept = build::sweep(&self.engine, &self.provider).await;
        swept.map_err(|error| error.into_backend("can't remove what builds left"))
    }

    fn firewall(&self) -> Option<&Arc<Firewall>> {
        Some(&self.firewall)
    }

    fn images(&self) -> &dyn ImageStore {
        self
    }

    fn metering(&self) -> Option<&dyn Metering> {
        Some(self)
    }

    fn disk_watch(&self) -> Option<&dyn DiskWatch> {
        Some(self)
    }
}

#[async_trait]
impl Metering for DockerBackend {
    async fn usage(&self, id: InstanceId) -> Result<Usage, BackendError> {
        self.meter.usage(&self.engine, id).await
    }
}
