//! What an instance in memory can do beside running: its disk is a text that a test writes, and so is its memory.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use golem_vm_protocol::vm::{MAX_CONSOLE_LOG, SnapshotName};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{Instance, MemoryBackend, Method, Power, State};
use crate::backend::{
    BackendError, CloneInstance, Console, ConsoleTail, Duplex, InstanceId, InstanceSpec, Limits,
    Resize, SnapshotInfo, Snapshots, Suspend,
};

/// What an instance has beside its description.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Contents {
    /// What is on its disk.
    #[serde(default)]
    pub(super) disk: String,
    /// What is in its memory, while it runs or is suspended.
    #[serde(default)]
    pub(super) memory: String,
    /// Whether its memory can't be gone on from.
    #[serde(default)]
    pub(super) memory_spoilt: bool,
    #[serde(default)]
    pub(super) snapshots: BTreeMap<String, Snapshot>,
    /// The end of what it wrote to its console.
    #[serde(default)]
    pub(super) console: Vec<u8>,
}

/// What an instance was at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Snapshot {
    number: u64,
    /// Seconds since 1970.
    made: u64,
    disk: String,
    memory: Option<String>,
}

impl Instance {
    /// It boots.
    pub(super) fn boot(&mut self) {
        self.contents.memory = String::new();
        self.contents.memory_spoilt = false;
        self.say(format!("{} login: ", self.spec.hostname).as_bytes());
        self.power = Power::On;
    }

    pub(super) fn say(&mut self, bytes: &[u8]) {
        let console = &mut self.contents.console;
        console.extend_from_slice(bytes);
        let too_much = console.len().saturating_sub(MAX_CONSOLE_LOG);
        console.drain(..too_much);
    }
}

impl MemoryBackend {
    /// What is written on an instance's disk, and in its memory; `None` where there is no such instance.
    #[must_use]
    pub fn contents(&self, id: InstanceId) -> Option<(String, String)> {
        let state = self.lock();
        let contents = &state.instances.get(&id)?.contents;
        Some((contents.disk.clone(), contents.memory.clone()))
    }

    /// Somebody in the instance writes that to its disk, and to its memory. Does nothing if it is not there.
    pub fn write(&self, id: InstanceId, disk: &str, memory: &str) {
        if let Some(instance) = self.lock().instances.get_mut(&id) {
            disk.clone_into(&mut instance.contents.disk);
            memory.clone_into(&mut instance.contents.memory);
        }
    }

    /// The instance can't go on from the memory that is kept. Does nothing if it is not there.
    pub fn spoil_memory(&self, id: InstanceId) {
        if let Some(instance) = self.lock().instances.get_mut(&id) {
            instance.contents.memory_spoilt = true;
        }
    }
}

#[async_trait]
impl Suspend for MemoryBackend {
    async fn suspend(&self, id: InstanceId) -> Result<(), BackendError> {
        self.call(Method::Suspend, |state| {
            let instance = state.instance(id)?;
            if instance.power == Power::On {
                instance.power = Power::Suspended;
            }
            Ok(())
        })
        .await
    }

    async fn forget(&self, id: InstanceId) -> Result<(), BackendError> {
        self.call(Method::Forget, |state| {
            let instance = state.instance(id)?;
            if instance.power == Power::Suspended {
                instance.contents.memory = String::new();
                instance.contents.memory_spoilt = false;
                instance.power = Power::OFF;
            }
            Ok(())
        })
        .await
    }
}

#[async_trait]
impl Snapshots for MemoryBackend {
    async fn create(&self, id: InstanceId, name: &SnapshotName) -> Result<(), BackendError> {
        self.call(Method::Snapshot, |state| {
            let instance = state.instance(id)?;
            if instance.power == Power::Suspended {
                return Err(BackendError::Failed("it is suspended".to_owned()));
            }
            let contents = &mut instance.contents;
            let memory = (instance.power == Power::On).then(|| contents.memory.clone());
            let last = contents.snapshots.values().map(|snapshot| snapshot.number).max();
            let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            let made = Snapshot {
                number: last.unwrap_or(0) + 1,
                made: since.unwrap_or_default().as_secs(),
                disk: contents.disk.clone(),
                memory,
            };
            contents.snapshots.entry(name.as_str().to_owned()).or_insert(made);
            Ok(())
        })
        .await
    }

    async fn list(&self, id: InstanceId) -> Result<Vec<SnapshotInfo>, BackendError> {
        self.call(Method::Snapshots, |state| {
            let mut all: Vec<_> = state.instance(id)?.contents.snapshots.iter().collect();
            all.sort_by_key(|(_, snapshot)| snapshot.number);
            let described = all.into_iter().map(|(name, snapshot)| {
                let name =
                    name.parse().map_err(|error| BackendError::Failed(format!("{error}")))?;
                let memory = snapshot.memory.as_ref().map_or(0, |_| 1 << 20);
                Ok(SnapshotInfo {
                    name,
                    created_at: SystemTime::UNIX_EPOCH + Duration::from_secs(snapshot.made),
                    bytes: Some((1 << 20) + memory),
                    with_memory: snapshot.memory.is_some(),
                })
            });
            described.collect()
        })
        .await
    }

    async fn restore(&self, id: InstanceId, name: &SnapshotName) -> Result<(), BackendError> {
        self.call(Method::Restore, |state| {
            let instance = state.instance(id)?;
            if instance.power == Power::On {
                return Err(BackendError::Failed("it runs".to_owned()));
            }
            let found = instance.contents.snapshots.get(name.as_str()).cloned();
            let snapshot = found.ok_or_else(|| BackendError::NoSnapshot(name.clone()))?;
            let contents = &mut instance.contents;
            (contents.disk, contents.memory_spoilt) = (snapshot.disk, false);
            instance.power = match snapshot.memory {
                Some(memory) => {
                    contents.memory = memory;
                    Power::Suspended
                }
                None => Power::OFF,
            };
            Ok(())
        })
        .await
    }

    async fn remove(&self, id: InstanceId, name: &SnapshotName) -> Result<(), BackendError> {
        self.call(Method::RemoveSnapshot, |state| {
            state.instance(id)?.contents.snapshots.remove(name.as_str());
            Ok(())
        })
        .await
    }
}

#[async_trait]
impl CloneInstance for MemoryBackend {
    async fn ensure_clone(
        &self,
        source: InstanceId,
        spec: &InstanceSpec,
    ) -> Result<(), BackendError> {
        self.call(Method::EnsureClone, |state| {
            if state.instances.contains_key(&spec.id) {
                return Ok(());
            }
            let disk = state.instance(source)?.contents.disk.clone();
            let contents = Contents { disk, ..Contents::default() };
            let clone = Instance { contents, ..Instance::new(spec) };
            state.instances.insert(spec.id, clone);
            Ok(())
        })
        .await
    }
}

#[async_trait]
impl Resize for MemoryBackend {
    async fn resize(&self, id: InstanceId, limits: Limits) -> Result<(), BackendError> {
        self.call(Method::Resize, |state| {
            let has = &mut state.instance(id)?.spec.limits;
            if limits.storage_mib < has.storage_mib {
                return Err(BackendError::Failed("a disk is never made smaller".to_owned()));
            }
            *has = limits;
            Ok(())
        })
        .await
    }
}

#[async_trait]
impl Console for MemoryBackend {
    async fn log(&self, id: InstanceId) -> Result<ConsoleTail, BackendError> {
        self.call(Method::ConsoleLog, |state| {
            let data = state.instance(id)?.contents.console.clone();
            Ok(ConsoleTail { truncated: data.len() >= MAX_CONSOLE_LOG, data })
        })
        .await
    }

    /// A guest that says back what it is told, until it does not run any more.
    async fn attach(&self, id: InstanceId) -> Result<Box<dyn Duplex>, BackendError> {
        let running = |state: &State| {
            matches!(state.instances.get(&id), Some(Instance { power: Power::On, .. }))
        };
        self.call(Method::Attach, |state| {
            state.instance(id)?;
            if running(state) { Ok(()) } else { Err(BackendError::Failed("it is off".to_owned())) }
        })
        .await?;
        let (there, mut guest) = tokio::io::duplex(4096);
        let backend = self.clone();
        tokio::spawn(async move {
            let mut told = [0; 1024];
            let mut look = tokio::time::interval(Duration::from_millis(100));
            loop {
                tokio::select! {
                    read = guest.read(&mut told) => {
                        let Some(told) = read.ok().filter(|count| *count > 0).and_then(|count| told.get(..count))
                        else {
                            return;
                        };
                        if let Some(instance) = backend.lock().instances.get_mut(&id) {
                            instance.say(told);
                        }
                        if guest.write_all(told).await.is_err() {
                            return;
                        }
                    }
                    _ = look.tick() => {
                        let state = backend.lock();
                        if !matches!(state.instances.get(&id), Some(Instance { power: Power::On, .. })) {
                            return;
                        }
                    }
                }
            }
        });
        Ok(Box::new(there))
    }
}
