//! Containers on a Docker Engine (or what speaks its API), made over that API. No program of
//! Docker's is ever started.
//!
//! | module | what it holds |
//! |---|---|
//! | [`endpoint`] | which engine is meant |
//! | `engine` | calls with deadlines, failures told apart |
//! | `spec`, `files` | what a container is made from: limits, labels; host key, authorised keys |
//! | `instance`, `observation` | the life of a container; what the engine tells of it |
//! | `identity` | which engine has the instances, so that none is taken for gone because another one answers |
//! | `network` | the provider's networks |
//! | `metering` | what a container uses |
//! | `notice` | a line on its terminals |
//! | `probe`, `remembered` | what the engine can do; what it could at the last start |
//! | `trial`, `guest` | what a guest is seen to be allowed |
//! | `disk` | the size of a guest's disk |
//! | `images`, `tags`, `pull`, `tidy` | images, their names, how they are fetched, and when they go |
//! | `recipe`, `base`, `build`, `proxy`, `progress` | how they are made |

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use golem_vm_protocol::KeyId;
use golem_vm_protocol::vm::SshPublicKey;
use tokio::sync::{Mutex, OnceCell, watch};

use super::{
    Backend, BackendError, BackendKind, Capabilities, DiskWatch, Finding, ImageStore, InstanceId,
    InstanceSpec, Metering, NotifyGuest, Observation, Usage,
};

mod base;
mod build;
mod disk;
pub mod endpoint;
mod engine;
#[cfg(test)]
mod fake_engine;
#[cfg(test)]
mod faults;
mod files;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod guest;
mod identity;
mod images;
mod instance;
mod metering;
mod network;
mod notice;
mod observation;
mod presence;
mod probe;
mod progress;
mod proxy;
mod pull;
mod recipe;
mod remembered;
mod spec;
mod tags;
mod tidy;
mod trial;

use crate::containment::{Firewall, Guest, TrafficGuard};
use endpoint::{Disk, Endpoint, EndpointError, Surroundings};
use engine::{CallError, Engine};
use identity::Identity;
use instance::Instances;
use metering::Meter;
use notice::Notices;
use probe::EngineTraits;
use remembered::Memory;
use spec::Network;

/// What it can do on the best of engines and kernels.
pub(super) fn at_most() -> super::at_most::AtMost {
    probe::at_most()
}

/// One provider's part of one engine.
#[derive(Debug)]
pub struct DockerBackend {
    engine: Arc<Engine>,
    provider: KeyId,
    identity: Identity,
    traits: OnceCell<EngineTraits>,
    firewall: Arc<Firewall>,
    meter: Meter,
    notices: Notices,
    /// Where the engine keeps its data.
    root: OnceCell<Option<PathBuf>>,
    /// Whether the engine gives disks a size. Held while something is tried.
    trials: Mutex<DiskTrial>,
    /// Where what is found is kept, if it is.
    memory: Option<Memory>,
    /// Held while a network is made.
    networks: Mutex<()>,
    /// Names of images that nothing needs. Held while an image is built, or what builds left is removed.
    builds: Mutex<tidy::Unused>,
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
        Ok(Self::on(Endpoint::choose(around, &Disk)?, provider, firewall))
    }

    fn on(endpoint: Endpoint, provider: KeyId, firewall: Arc<Firewall>) -> Self {
        Self {
            engine: Arc::new(Engine::new(endpoint)),
            provider,
            identity: Identity::default(),
            traits: OnceCell::new(),
            firewall,
            meter: Meter::default(),
            notices: Notices::default(),
            root: OnceCell::new(),
            trials: Mutex::default(),
            memory: None,
            networks: Mutex::new(()),
            builds: Mutex::default(),
        }
    }

    /// The same, with what it finds out about the engine kept in files in this directory.
    #[must_use]
    pub fn keeping(mut self, directory: &Path) -> Self {
        self.memory = Some(Memory::in_directory(directory));
        self.identity = Identity::in_directory(directory);
        self
    }

    /// The engine that was chosen, and why.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        self.engine.endpoint()
    }

    /// Has whichever engine is found next be the one that has this provider's instances, for a provider with
    /// this directory, running or not. Returns the id of the one that had them, if one did.
    ///
    /// # Errors
    /// When it can't be written down.
    pub fn accept_any_engine(directory: &Path) -> std::io::Result<Option<String>> {
        Identity::accept_any(directory)
    }

    fn instances(&self) -> Instances<'_> {
        Instances { engine: &self.engine, provider: &self.provider, identity: &self.identity }
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

    /// Whether this is the engine that has the instances, for doctor.
    async fn whose_engine(&self) -> Result<Option<Finding>, BackendError> {
        const SUBJECT: &str = "engine's identity";
        let asked = "can't ask the engine about itself";
        let failed = |error: CallError| error.into_backend(asked);
        let has_any = self.instances().any().await.map_err(failed)?;
        match self.identity.confirm(&self.engine, &self.provider, has_any).await {
            Ok(()) => Ok(None),
            Err(error) => match self.identity.trouble().borrow().clone() {
                Some(trouble) => Ok(Some(Finding::bad(SUBJECT, trouble, identity::REMEDY))),
                None => Err(failed(error)),
            },
        }
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
        let mut capabilities = Box::pin(probed).await?;
        if let Some(memory) = &self.memory {
            memory.keep(surroundings, &capabilities, &disk);
        }
        // Not among what is kept: it is asked anew each time.
        capabilities.findings.extend(self.whose_engine().await?);
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
        // Before anything is made that would tell this engine from a foreign one.
        let confirmed = self.identity.confirm(&self.engine, &self.provider, false).await;
        confirmed.map_err(|error| error.into_backend("can't tell which engine this is"))?;
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
        self.notices.forget(id);
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
        let told = self.firewall.told().await;
        let seen = self.instances().survey().await?;
        let guests = seen.iter().filter_map(|(id, (_, guest))| Some((id.vm(), (*guest)?)));
        // The engine has answered, whatever became of the firewall.
        if let Err(error) = self.firewall.saw(told, guests.collect()).await {
            tracing::warn!("{}", not_contained(error));
        }
        Ok(seen.into_iter().map(|(id, (observation, _))| (id, observation)).collect())
    }

    async fn clean_up(&self) -> Result<(), BackendError> {
        let _one_at_a_time = self.networks.lock().await;
        let _no_build = self.builds.lock().await;
        let trial = disk::remove(&self.engine, &self.provider).await;
        trial.map_err(|error| error.into_backend("can't remove what a trial left"))?;
        network::remove_all(&self.engine, &self.provider).await?;
        self.firewall.lower().await.map_err(BackendError::Failed)?;
        let swept = build::sweep(&self.engine, &self.provider).await;
        swept.map_err(|error| error.into_backend("can't remove what builds left"))?;
        self.identity.has_none();
        Ok(())
    }

    fn trouble(&self) -> Option<watch::Receiver<Option<String>>> {
        Some(self.identity.trouble())
    }

    fn traffic_guard(&self) -> Option<&dyn TrafficGuard> {
        Some(&*self.firewall)
    }

    fn images(&self) -> &dyn ImageStore {
        self
    }

    fn metering(&self) -> Option<&dyn Metering> {
        Some(self)
    }

    fn notifier(&self) -> Option<&dyn NotifyGuest> {
        Some(self)
    }

    fn interrupted(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(presence::ended(&self.engine))
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

#[async_trait]
impl NotifyGuest for DockerBackend {
    async fn notify(&self, id: InstanceId, line: &str) -> Result<(), BackendError> {
        self.notices.show(&self.engine, id, line).await
    }
}
