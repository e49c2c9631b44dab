//! The serial port: what it said, and typing there.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use golem_vm_protocol::vm::MAX_CONSOLE_LOG;
use tokio::io::copy_bidirectional;
use tokio_util::sync::CancellationToken;

use super::{QemuBackend, spec};
use crate::backend::{BackendError, Console, ConsoleTail, Duplex, InstanceId};

/// Bytes between QEMU and whoever is attached.
const BUFFER: usize = 16 * 1024;

/// Who is attached to which machine: QEMU serves one at a time, and lets others wait without a word.
#[derive(Debug, Default)]
pub(super) struct Attached(Mutex<HashMap<InstanceId, CancellationToken>>);

impl Attached {
    /// Ends whoever is attached to it.
    pub(super) fn end(&self, id: InstanceId) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(token) = all.remove(&id) {
            token.cancel();
        }
    }

    /// A new one, in place of an earlier one.
    fn begin(&self, id: InstanceId) -> CancellationToken {
        self.end(id);
        let token = CancellationToken::new();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id, token.clone());
        token
    }
}

#[async_trait]
impl Console for QemuBackend {
    async fn log(&self, id: InstanceId) -> Result<ConsoleTail, BackendError> {
        let said = self.machines.console_log(&spec::name(id)?).await;
        let mut data = said.map_err(|error| self.explained(id, error))?;
        let surplus = data.len().saturating_sub(MAX_CONSOLE_LOG);
        data.drain(..surplus);
        Ok(ConsoleTail { data, truncated: surplus > 0 })
    }

    async fn attach(&self, id: InstanceId) -> Result<Box<dyn Duplex>, BackendError> {
        let ended = self.consoles.begin(id);
        let console = self.machines.console(&spec::name(id)?).await;
        let mut console = console.map_err(|error| self.explained(id, error))?;
        let (ours, mut theirs) = tokio::io::duplex(BUFFER);
        tokio::spawn(async move {
            tokio::select! {
                () = ended.cancelled() => {}
                _ = copy_bidirectional(&mut console, &mut theirs) => {}
            }
        });
        Ok(Box::new(ours))
    }
}
