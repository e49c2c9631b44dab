//! What the owner's requests work with.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use golem_vm_node::clock::Clock;
use golem_vm_node::data_dir::DataDir;
use golem_vm_protocol::time::Timestamp;
use golem_vm_protocol::{KeyId, KeyPair};
use tokio_util::sync::CancellationToken;

use crate::advertise::Advertiser;
use crate::backend::Backends;
use crate::config::Config;
use crate::http::InfoSource;
use crate::ports::{PortBoard, PortVerifier};
use crate::rental::Rental;
use crate::store::ProviderStore;

/// The running provider, as its owner's commands see it.
pub struct Running {
    /// The settings that it was started with.
    pub config: Config,
    /// Where its state lives.
    pub data_dir: DataDir,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The provider's key.
    pub id: KeyId,
    /// That key itself.
    pub key: KeyPair,
    /// Since when it runs.
    pub started_at: Timestamp,
    /// Where the API listens.
    pub api: SocketAddr,
    /// What it says about itself.
    pub info: Arc<InfoSource>,
    /// Renting.
    pub rental: Rental,
    /// The database.
    pub store: ProviderStore,
    /// What makes VMs.
    pub backends: Backends,
    /// The access ports.
    pub ports: PortBoard,
    /// Verifies them.
    pub verifier: PortVerifier,
    /// Advertises.
    pub advertiser: Advertiser,
    /// A directory on the file system that holds the VMs' data.
    pub vm_data: PathBuf,
    /// Ends the program.
    pub shutdown: CancellationToken,
    /// Whether the forwarder is to end with it.
    pub purged: AtomicBool,
}
