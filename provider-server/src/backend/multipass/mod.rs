//! Instances of Canonical's Multipass, by its program `multipass` alone, from 1.10 on.
//!
//! Its daemon can be down, slow, held up by one guest, restarted under a call or crashed by it, and what a call
//! says of itself is not always so. So every call has a deadline, nothing is taken for done or gone before it
//! was looked at, and what can be begun again is.
//!
//! | module | what it holds |
//! |---|---|
//! | `program` | runs it: arguments, deadline, bounded output |
//! | `said`, `reading`, `version` | what it says: failures, JSON, releases (pure) |
//! | `names`, `books` | what instances are called; what is written down of each |
//! | `asking` | questions |
//! | `launching`, `power`, `removing` | what changes something |
//! | `inside`, `user_data` | commands in a guest; what its first boot is told |
//! | `abilities` | suspend, snapshots, clones, other sizes |
//! | `images` | what it boots from |
//! | `probe` | what it can do here |

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use golem_vm_protocol::KeyId;
use golem_vm_protocol::vm::SshPublicKey;
use tokio::sync::{Mutex, Notify};

use super::{
    Backend, BackendError, BackendKind, Capabilities, CloneInstance, ImageStore, InstanceId,
    InstanceSpec, Limits, Metering, NotifyGuest, Observation, Resize, Snapshots, Suspend,
};
use crate::containment::{Firewall, TrafficGuard};

mod abilities;
mod asking;
mod books;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod images;
mod inside;
mod launching;
mod names;
mod power;
mod probe;
mod program;
mod reading;
#[cfg(test)]
mod recordings;
mod removing;
mod said;
mod user_data;
mod version;

use asking::Now;
use books::Books;
use program::Program;
use version::Version;

/// What it can do on Linux with the newest release that is known.
pub(super) fn at_most() -> super::at_most::AtMost {
    probe::at_most()
}

/// The bridge on which Multipass's guests are, with its driver `qemu` on Linux.
pub const BRIDGE: &str = "mpqemubr0";

/// Where things are kept in the provider's directory.
const DIRECTORY: &str = "multipass";

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Time between two looks.
    pub poll: Duration,
    /// A question. One that waits behind something that holds the daemon up comes back within it, or not at all.
    pub query: Duration,
    /// A change that is done at once.
    pub change: Duration,
    /// For how long others wait until Multipass has taken up what was begun.
    pub turn: Duration,
    /// What Multipass itself is told for each step of a launch or a start, downloads left out. Whoever waits for it
    /// gives up earlier.
    pub launch: Duration,
    /// How long a daemon that is away is waited for.
    pub patience: Duration,
    /// For how long a list that lacks something is not believed, after it could not be had.
    pub settle: Duration,
    /// How long after it was begun a launch that nobody waits for is given until it is seen.
    pub appear: Duration,
    /// How long an instance may be in a state that Multipass does not know: it is, while it boots.
    pub unknown: Duration,
    /// How long a guest that has just come up is asked again.
    pub verify: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            poll: Duration::from_secs(1),
            query: Duration::from_secs(30),
            change: Duration::from_secs(40),
            turn: Duration::from_secs(20),
            launch: Duration::from_secs(1800),
            patience: Duration::from_secs(45),
            settle: Duration::from_secs(60),
            appear: Duration::from_secs(40),
            unknown: Duration::from_secs(600),
            verify: Duration::from_secs(60),
        }
    }
}

/// One provider's part of the Multipass of this host.
#[derive(Debug)]
pub struct MultipassBackend(Arc<Multipass>);

#[derive(Debug)]
struct Multipass {
    program: Program,
    provider: KeyId,
    books: Books,
    images: images::Files,
    firewall: Arc<Firewall>,
    pace: Pace,
    ssh_port: u16,
    version: std::sync::Mutex<Option<Version>>,
    /// Whether `list` knows no option for leaving addresses out.
    asks_for_addresses: AtomicBool,
    /// Held while something is changed.
    changes: Mutex<()>,
    /// Held while what was given up is removed.
    reaping: Mutex<()>,
    /// When it last could not be asked.
    failed_at: std::sync::Mutex<Option<Instant>>,
    /// Since when instances are in a state that Multipass does not know.
    unknown_since: std::sync::Mutex<HashMap<String, Instant>>,
    /// Told when the daemon was away, or has suspended what we did not.
    interrupted: Notify,
}

impl MultipassBackend {
    /// For that provider, with what it writes down in this directory. Multipass is not asked yet, and may be down.
    ///
    /// # Errors
    /// When what was written down can't be read.
    pub fn connect(
        provider: KeyId,
        directory: &Path,
        firewall: Arc<Firewall>,
    ) -> std::io::Result<Self> {
        Self::with(Program::default(), provider, directory, firewall, Pace::default())
    }

    /// The same with the program at `path`, with variables besides this process's own, at another pace: for tests.
    ///
    /// # Errors
    /// When what was written down can't be read.
    pub fn with_program(
        path: &Path,
        environment: &[(&str, &str)],
        provider: KeyId,
        directory: &Path,
        firewall: Arc<Firewall>,
        pace: Pace,
    ) -> std::io::Result<Self> {
        Self::with(Program::at(path, environment), provider, directory, firewall, pace)
    }

    fn with(
        program: Program,
        provider: KeyId,
        directory: &Path,
        firewall: Arc<Firewall>,
        pace: Pace,
    ) -> std::io::Result<Self> {
        let directory = directory.join(DIRECTORY);
        Ok(Self(Arc::new(Multipass {
            program,
            provider,
            books: Books::in_directory(&directory)?,
            images: images::Files::in_directory(&directory),
            firewall,
            pace,
            ssh_port: 22,
            version: std::sync::Mutex::default(),
            asks_for_addresses: AtomicBool::new(false),
            changes: Mutex::new(()),
            reaping: Mutex::new(()),
            failed_at: std::sync::Mutex::default(),
            unknown_since: std::sync::Mutex::default(),
            interrupted: Notify::new(),
        })))
    }
}

fn lock<T>(mutex: &std::sync::Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether two lines in OpenSSH's form hold the same key, whatever their comments are.
fn same_key(one: &str, other: &str) -> bool {
    let key = |line: &str| {
        let mut words = line.split_whitespace().map(str::to_owned);
        words.next().zip(words.next())
    };
    key(one).is_some() && key(one) == key(other)
}

/// Whole processors: Multipass gives no parts of one.
fn vcpus(limits: &Limits) -> u32 {
    limits.cpu_millis.div_ceil(1000).max(1)
}

fn not_contained(reason: String) -> BackendError {
    BackendError::Unavailable(format!("guests can't be contained at the moment: {reason}"))
}

#[async_trait]
impl Backend for MultipassBackend {
    fn kind(&self) -> BackendKind {
        BackendKind::Multipass
    }

    async fn probe(&self) -> Result<Capabilities, BackendError> {
        self.0.probe().await
    }

    async fn ensure(&self, spec: &InstanceSpec) -> Result<(), BackendError> {
        // It runs from then on.
        self.0.firewall.hold().await.map_err(not_contained)?;
        Box::pin(self.0.ensure(spec)).await
    }

    async fn start(&self, id: InstanceId) -> Result<(), BackendError> {
        self.0.firewall.hold().await.map_err(not_contained)?;
        Box::pin(self.0.start(id)).await
    }

    async fn authorize(&self, id: InstanceId, keys: &[SshPublicKey]) -> Result<(), BackendError> {
        self.0.authorize(id, keys).await
    }

    async fn stop(&self, id: InstanceId, grace: Duration) -> Result<(), BackendError> {
        self.0.stop(id, grace).await?;
        self.0.firewall.dismiss(id.vm()).await.map_err(not_contained)
    }

    async fn destroy(&self, id: InstanceId) -> Result<(), BackendError> {
        self.0.destroy(id).await?;
        self.0.firewall.dismiss(id.vm()).await.map_err(not_contained)
    }

    async fn observe(&self, id: InstanceId) -> Result<Observation, BackendError> {
        let Now::There(own, _) = self.0.now(id.vm()).await? else { return Ok(Observation::Absent) };
        self.0.look_for_address(&own).await;
        Ok(self.0.observation(&own, &self.0.books.of(id.vm())))
    }

    async fn list(&self) -> Result<Vec<InstanceId>, BackendError> {
        Ok(self.survey().await?.into_keys().collect())
    }

    async fn survey(&self) -> Result<BTreeMap<InstanceId, Observation>, BackendError> {
        self.0.survey().await
    }

    async fn clean_up(&self) -> Result<(), BackendError> {
        self.0.firewall.lower().await.map_err(BackendError::Failed)
    }

    fn traffic_guard(&self) -> Option<&dyn TrafficGuard> {
        Some(&*self.0.firewall)
    }

    fn images(&self) -> &dyn ImageStore {
        &*self.0
    }

    /// A launch returns when the first boot is over, downloads included.
    fn longest_start(&self) -> Duration {
        self.0.pace.launch
    }

    /// Multipass tells what memory and disk are used, and not the CPU.
    fn metering(&self) -> Option<&dyn Metering> {
        None
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

    fn interrupted(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(self.0.interrupted.notified())
    }
}
