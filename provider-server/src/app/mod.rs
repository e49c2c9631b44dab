//! Builds the provider from its settings, runs it, and takes it down: the only place that names
//! concrete types.

use std::sync::Arc;

use golem_vm_node::client::ClientError;
use golem_vm_node::clock::{Clock, SystemClock};
use golem_vm_node::control::ControlError;
use golem_vm_node::data_dir::{DataDir, DataDirError};
use golem_vm_node::http::BindError;
use golem_vm_node::key_file::{self, KeyFileError};
use golem_vm_node::ready::ReadyError;
use golem_vm_node::shutdown;
use golem_vm_node::sqlite::SqliteError;

use crate::backend::BackendError;
use crate::capacity::OfferError;
use crate::config::Config;
use crate::fail_point::{self, FailPoint};
use crate::host::HostError;
use crate::ports::ForwardingError;
use crate::store::ProviderStore;
use crate::vm::VmError;

mod advert_source;
mod assemble;
mod backend;
mod backends;
mod housekeeping;
pub(crate) mod own_log;
mod serve;

use assemble::Provider;
pub use backend::connect_backend;
pub use backends::{connect_all, first_of};

/// What [`run`] needs.
pub struct StartOptions {
    /// The settings.
    pub config: Config,
    /// Where state lives.
    pub data_dir: DataDir,
    /// Where to announce the bound addresses.
    pub ready_fd: Option<u32>,
}

/// Why the provider does not run.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// Another process has the data directory, or it can't be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The key can't be used.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// The database can't be used.
    #[error(transparent)]
    Database(#[from] SqliteError),
    /// The machine can't be measured.
    #[error(transparent)]
    Host(#[from] HostError),
    /// More is offered than there is.
    #[error(transparent)]
    Offer(#[from] OfferError),
    /// The backend can't be used.
    #[error("no backend can make VMs here ('golem-provider doctor' says more)")]
    Backend(#[from] BackendError),
    /// Guests can't be contained after all.
    #[error("guests can't be contained: {0}")]
    Containment(String),
    /// The forwarder can't be used.
    #[error(transparent)]
    Forwarding(#[from] ForwardingError),
    /// The forwarder's program is not there.
    #[error("{0}")]
    NoForwarder(String),
    /// The API's address can't be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The control socket can't be bound.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// An address in the settings can't be used.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The VMs can't be read.
    #[error(transparent)]
    Vms(#[from] VmError),
    /// Nobody can be told that it runs.
    #[error(transparent)]
    Ready(#[from] ReadyError),
    /// Signals can't be caught.
    #[error("signals can't be caught: {0}")]
    Signals(std::io::Error),
}

impl AppError {
    /// The exit code; `golem-provider --help` lists them.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Offer(_) => 2,
            Self::Backend(_) => 4,
            Self::DataDir(DataDirError::InUse { .. }) => 5,
            _ => 1,
        }
    }
}

/// Runs the provider until it is told to end by a signal or over the control socket.
///
/// # Errors
/// [`AppError`], before anything is offered.
pub async fn run(options: StartOptions) -> Result<(), AppError> {
    let StartOptions { config, data_dir, ready_fd } = options;
    let _lock = data_dir.lock()?;
    let key = key_file::load_or_create(&data_dir.key_path())?;
    let token = shutdown::on_signal().map_err(AppError::Signals)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let store = ProviderStore::open(&data_dir.state_db(), Arc::clone(&clock))?;
    fail_point::reached(FailPoint::RecoveryOpened);
    let provider = Provider::assemble(config, &data_dir, key, store.clone(), clock, token).await;
    let outcome = match provider {
        Ok(provider) => provider.serve(&data_dir, ready_fd).await,
        Err(error) => Err(error),
    };
    store.close().await;
    outcome
}
