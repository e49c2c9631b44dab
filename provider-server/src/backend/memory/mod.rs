//! Instances that are nothing but a description: for tests.
//!
//! A [`MemoryBackend`] does what its script says: calls can be made to fail, to fail after they
//! did their work, to be slow or to hang, and instances can stop, break or vanish by themselves.
//! A clone is a second handle on the same backend. One that is [kept](MemoryBackend::kept) has its
//! instances in a file, where they outlive the program as an engine's do. Who has no handle, because the
//! backend is in another process, scripts by host name: one that begins with `doomed-` can't be started,
//! and the SSH server of one that begins with `deaf-` never answers.

mod abilities;
mod handle;
mod images;
mod kept;
mod script;
mod watching;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use data_encoding::HEXLOWER;
use golem_vm_protocol::vm::{Ability, Isolation, SshPublicKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt as _;

use super::{
    Backend, BackendError, BackendKind, Capabilities, CloneInstance, Console, Containment,
    DiskRoom, DiskUse, DiskWatch, EndedBy, ImageDigest, ImageStore, InstanceId, InstanceSpec,
    Metering, NotifyGuest, Observation, ProgressSender, Resize, Snapshots, Started, Suspend,
};
use crate::fail_point::{self, FailPoint};
use abilities::Contents;
pub use kept::FILE_NAME;
use kept::Keeper;
pub use script::{Fault, Method};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Power {
    Off {
        exit_code: Option<i64>,
        out_of_memory: bool,
        #[serde(default)]
        by: EndedBy,
    },
    On,
    Suspended,
}

impl Power {
    /// Stopped from outside.
    const OFF: Self = Self::Off { exit_code: Some(0), out_of_memory: false, by: EndedBy::Host };
}

#[derive(Debug, Clone)]
struct Instance {
    spec: InstanceSpec,
    power: Power,
    broken: Option<String>,
    contents: Contents,
}

impl Instance {
    /// One that was never started.
    fn new(spec: &InstanceSpec) -> Self {
        Self {
            spec: spec.clone(),
            power: Power::Off { exit_code: None, out_of_memory: false, by: EndedBy::Host },
            broken: None,
            contents: Contents::default(),
        }
    }
}

#[derive(Debug)]
struct State {
    kind: BackendKind,
    keeper: Option<Keeper>,
    instances: BTreeMap<InstanceId, Instance>,
    images: HashMap<ImageDigest, u64>,
    capabilities: Capabilities,
    ssh: SocketAddr,
    script: HashMap<Method, VecDeque<Fault>>,
    calls: HashMap<Method, usize>,
    unavailable: Option<String>,
    disk_uses: HashMap<InstanceId, DiskUse>,
    disk_room: Option<DiskRoom>,
    told: Vec<(InstanceId, String)>,
    words: Vec<String>,
}

/// The backend, and the handle with which a test steers it.
#[derive(Debug, Clone)]
pub struct MemoryBackend {
    state: Arc<Mutex<State>>,
}

impl Default for MemoryBackend {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryBackend {
    /// An empty one. Its instances' sshd is said to listen on `127.0.0.1:22`.
    #[must_use]
    pub fn new() -> Self {
        let enforced = ["cpu", "memory", "processes"];
        let capabilities = Capabilities {
            isolation: Isolation::Container,
            version: "memory".to_owned(),
            enforced: enforced.map(str::to_owned).to_vec(),
            containment: Containment::Contained,
            findings: Vec::new(),
            data_root: None,
            accel: None,
            abilities: Ability::ALL.iter().copied().collect(),
        };
        let state = State {
            kind: BackendKind::Memory,
            keeper: None,
            instances: BTreeMap::new(),
            images: HashMap::new(),
            capabilities,
            ssh: SocketAddr::from((Ipv4Addr::LOCALHOST, 22)),
            script: HashMap::new(),
            calls: HashMap::new(),
            unavailable: None,
            disk_uses: HashMap::new(),
            disk_room: None,
            told: Vec::new(),
            words: Vec::new(),
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// An empty one whose instances all seem to be reached by SSH: a listener of this process
    /// greets as an SSH server does, and nothing more.
    ///
    /// # Errors
    /// When no port can be bound on loopback.
    pub async fn greeting() -> std::io::Result<Self> {
        let backend = Self::new();
        backend.greet().await?;
        Ok(backend)
    }

    /// As [`MemoryBackend::greeting`], with the instances and images that the last one with this directory
    /// had. Every change is written before the call that makes it returns. The greeting is on another
    /// address each time, as a restarted instance may be.
    ///
    /// # Errors
    /// When no port can be bound on loopback, or what was kept can't be read.
    pub async fn kept(directory: &Path) -> std::io::Result<Self> {
        let backend = Self::new();
        {
            let mut state = backend.lock();
            state.keeper = Some(Keeper::in_directory(directory));
            state.catch_up()?;
        }
        backend.greet().await?;
        Ok(backend)
    }

    async fn greet(&self) -> std::io::Result<()> {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        self.set_ssh(listener.local_addr()?);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                // A client that is gone already has seen enough.
                let _ = stream.write_all(b"SSH-2.0-nothing_behind_this\r\n").await;
            }
        });
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs one call as the script says.
    async fn call<T: Send>(
        &self,
        method: Method,
        work: impl FnOnce(&mut State) -> Result<T, BackendError> + Send,
    ) -> Result<T, BackendError> {
        let fault = {
            let mut state = self.lock();
            *state.calls.entry(method).or_default() += 1;
            if let Some(reason) = &state.unavailable {
                return Err(BackendError::Unavailable(reason.clone()));
            }
            state.script.get_mut(&method).and_then(VecDeque::pop_front)
        };
        match fault {
            None => {}
            Some(Fault::Fail(error)) => return Err(error),
            Some(Fault::FailAfterwards(error)) => {
                return self.lock().run(method, work).and(Err(error));
            }
            Some(Fault::Delay(time)) => tokio::time::sleep(time).await,
            Some(Fault::Hang) => std::future::pending().await,
        }
        self.lock().run(method, work)
    }
}

impl State {
    /// Runs the work of one call, and keeps what it has changed.
    fn run<T>(
        &mut self,
        method: Method,
        work: impl FnOnce(&mut Self) -> Result<T, BackendError>,
    ) -> Result<T, BackendError> {
        if let Err(error) = self.catch_up() {
            return Err(BackendError::Unavailable(error.to_string()));
        }
        if self.keeper.is_none() || !method.changes_something() {
            return work(self);
        }
        let before = (self.instances.clone(), self.images.clone());
        let value = work(self)?;
        fail_point::reached(FailPoint::MemoryBeforeKeeping);
        if let Some(keeper) = &mut self.keeper
            && let Err(error) = keeper.store(&self.instances, &self.images)
        {
            (self.instances, self.images) = before;
            return Err(BackendError::Failed(format!("instances can't be kept: {error}")));
        }
        fail_point::reached(FailPoint::MemoryKept);
        Ok(value)
    }

    /// Takes over what somebody else has made of the instances that are kept.
    fn catch_up(&mut self) -> std::io::Result<()> {
        if let Some(keeper) = &mut self.keeper
            && let Some(kept) = keeper.news()?
        {
            (self.instances, self.images) = kept;
        }
        Ok(())
    }

    /// The sight of an instance from outside.
    fn observation(&self, id: InstanceId) -> Observation {
        match self.instances.get(&id) {
            None => Observation::Absent,
            Some(Instance { broken: Some(reason), .. }) => {
                Observation::Broken { reason: reason.clone() }
            }
            Some(Instance { spec, power: Power::On, .. }) => {
                let deaf = spec.hostname.as_str().starts_with("deaf-");
                Observation::Running { ssh: if deaf { NOBODY } else { self.ssh } }
            }
            Some(Instance { power: Power::Suspended, .. }) => Observation::Suspended,
            Some(Instance { power: Power::Off { exit_code, out_of_memory, by }, .. }) => {
                let (exit_code, out_of_memory, by) = (*exit_code, *out_of_memory, *by);
                Observation::Stopped { exit_code, out_of_memory, by }
            }
        }
    }

    fn instance(&mut self, id: InstanceId) -> Result<&mut Instance, BackendError> {
        self.instances.get_mut(&id).ok_or(BackendError::NoInstance(id))
    }
}

/// The digest that the image of that name has here, always the same.
#[must_use]
pub fn digest_of(name: &str) -> ImageDigest {
    ImageDigest::new(format!("sha256:{}", HEXLOWER.encode(&Sha256::digest(name))))
}

/// Where nobody listens: port 0 can't be connected to.
const NOBODY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

#[async_trait]
impl Backend for MemoryBackend {
    fn kind(&self) -> BackendKind {
        self.lock().kind
    }

    async fn probe(&self) -> Result<Capabilities, BackendError> {
        self.call(Method::Probe, |state| Ok(state.capabilities.clone())).await
    }

    async fn ensure(&self, spec: &InstanceSpec) -> Result<(), BackendError> {
        self.call(Method::Ensure, |state| {
            if !state.images.contains_key(&spec.image) {
                return Err(BackendError::ImageMissing(spec.image.to_string()));
            }
            state.instances.entry(spec.id).or_insert_with(|| Instance::new(spec));
            Ok(())
        })
        .await
    }

    async fn start(&self, id: InstanceId) -> Result<(), BackendError> {
        self.call(Method::Start, |state| {
            let instance = state.instance(id)?;
            if let Some(reason) = &instance.broken {
                return Err(BackendError::Failed(reason.clone()));
            }
            if instance.spec.hostname.as_str().starts_with("doomed-") {
                return Err(BackendError::Failed("it was not meant to start".to_owned()));
            }
            match instance.power {
                Power::On => {}
                Power::Suspended if instance.contents.memory_spoilt => {
                    return Err(BackendError::MemoryLost("it was spoilt".to_owned()));
                }
                Power::Suspended => instance.power = Power::On,
                Power::Off { .. } => instance.boot(),
            }
            Ok(())
        })
        .await
    }

    async fn first_start(
        &self,
        spec: &InstanceSpec,
        progress: ProgressSender,
    ) -> Result<Started, BackendError> {
        let words = self.lock().words.clone();
        for word in words {
            let _ = progress.send(word).await;
        }
        self.start(spec.id).await?;
        Ok(Started::Boots)
    }

    async fn authorize(&self, id: InstanceId, keys: &[SshPublicKey]) -> Result<(), BackendError> {
        self.call(Method::Authorize, |state| {
            if let Some(access) = &mut state.instance(id)?.spec.access {
                access.authorized_keys = keys.to_vec();
            }
            Ok(())
        })
        .await
    }

    async fn stop(&self, id: InstanceId, _grace: Duration) -> Result<(), BackendError> {
        self.call(Method::Stop, |state| {
            let instance = state.instance(id)?;
            if instance.power == Power::On {
                instance.power = Power::OFF;
            }
            Ok(())
        })
        .await
    }

    async fn destroy(&self, id: InstanceId) -> Result<(), BackendError> {
        self.call(Method::Destroy, |state| {
            state.instances.remove(&id);
            Ok(())
        })
        .await
    }

    async fn observe(&self, id: InstanceId) -> Result<Observation, BackendError> {
        self.call(Method::Observe, |state| Ok(state.observation(id))).await
    }

    async fn list(&self) -> Result<Vec<InstanceId>, BackendError> {
        self.call(Method::List, |state| Ok(state.instances.keys().copied().collect())).await
    }

    async fn survey(&self) -> Result<BTreeMap<InstanceId, Observation>, BackendError> {
        self.call(Method::Survey, |state| {
            Ok(state.instances.keys().map(|id| (*id, state.observation(*id))).collect())
        })
        .await
    }

    async fn clean_up(&self) -> Result<(), BackendError> {
        self.call(Method::CleanUp, |_| Ok(())).await
    }

    fn images(&self) -> &dyn ImageStore {
        self
    }

    fn disk_watch(&self) -> Option<&dyn DiskWatch> {
        Some(self)
    }

    fn notifier(&self) -> Option<&dyn NotifyGuest> {
        Some(self)
    }

    fn suspend(&self) -> Option<&dyn Suspend> {
        Some(self)
    }

    fn snapshots(&self) -> Option<&dyn Snapshots> {
        Some(self)
    }

    fn clones(&self) -> Option<&dyn CloneInstance> {
        Some(self)
    }

    fn resizes(&self) -> Option<&dyn Resize> {
        Some(self)
    }

    fn console(&self) -> Option<&dyn Console> {
        Some(self)
    }

    fn metering(&self) -> Option<&dyn Metering> {
        Some(self)
    }
}

#[cfg(test)]
mod tests;
