//! Requests to suspend VMs, for snapshots of them, clones and other sizes, and for their consoles.

use std::sync::Arc;
use std::time::Duration;

use golem_vm_protocol::vm::{Ability, Actor, Owner, SnapshotName};
use golem_vm_protocol::{VmId, VmRef, VmResources};

use super::console::OpenConsole;
use super::policy::{Decision, Request, decide};
use super::snapshot::{SnapshotRecord, SnapshotStage, SnapshotWanted};
use super::task::Order;
use super::{VmError, VmManager, VmRecord, VmState};
use crate::backend::{Backend, BackendError, Capabilities, ConsoleTail, Duplex, InstanceSpec};
use crate::capacity::Amount;

const NO_CONSOLE: &str = "show the consoles of its VMs";
/// How long a question about a console may take.
const CONSOLE_DEADLINE: Duration = Duration::from_secs(15);

fn no_console(record: &VmRecord) -> VmError {
    let (name, backend) = (record.name.to_string(), record.terms.backend);
    VmError::NotSupported { name, backend, what: NO_CONSOLE }
}

async fn timely<T>(call: impl Future<Output = Result<T, BackendError>>) -> Result<T, BackendError> {
    tokio::time::timeout(CONSOLE_DEADLINE, call).await.unwrap_or_else(|_| {
        let seconds = CONSOLE_DEADLINE.as_secs();
        Err(BackendError::Unavailable(format!(
            "the backend did not answer within {seconds} seconds"
        )))
    })
}

impl VmManager {
    async fn order(&self, owner: Owner, vm: VmRef, order: Order) -> Result<VmRecord, VmError> {
        let record = self.find(owner, vm).await?;
        let gone = || VmError::NotFound(record.name.to_string());
        if let VmState::Failed { .. } = record.state {
            return Err(gone());
        }
        self.tell(&record, order).await?.ok_or_else(gone)
    }

    /// Keeps the memory of one of the owner's VMs on its disk, within what is `offered`, and ends it.
    ///
    /// # Errors
    /// [`VmError::NotSupported`], [`VmError::Conflict`], [`VmError::InsufficientCapacity`].
    pub async fn suspend(
        &self,
        owner: Owner,
        vm: VmRef,
        offered: Amount,
    ) -> Result<VmRecord, VmError> {
        self.order(owner, vm, Order::Suspend(offered, Actor::Requestor)).await
    }

    /// The whole snapshots of one of the owner's VMs, the oldest first.
    ///
    /// # Errors
    /// [`VmError::NotSupported`].
    pub async fn snapshots(
        &self,
        owner: Owner,
        vm: VmRef,
    ) -> Result<(VmRecord, Vec<SnapshotRecord>), VmError> {
        let record = self.find(owner, vm).await?;
        self.world().check_ability(&record, Ability::Snapshots, "make snapshots of its VMs")?;
        let mut snapshots = self.world().repository.snapshots(record.id).await?;
        snapshots.retain(|snapshot| snapshot.stage == SnapshotStage::Ready);
        Ok((record, snapshots))
    }

    /// Makes a snapshot of one of the owner's VMs, within what is `offered`.
    ///
    /// # Errors
    /// [`VmError::NotSupported`], [`VmError::Conflict`], [`VmError::InsufficientCapacity`],
    /// [`VmError::SnapshotExists`], [`VmError::TooManySnapshots`].
    pub async fn snapshot(
        &self,
        owner: Owner,
        vm: VmRef,
        wanted: SnapshotWanted,
        offered: Amount,
    ) -> Result<VmRecord, VmError> {
        self.order(owner, vm, Order::Snapshot(wanted, offered)).await
    }

    /// Deletes a snapshot of one of the owner's VMs.
    ///
    /// # Errors
    /// [`VmError::NotSupported`], [`VmError::SnapshotNotFound`].
    pub async fn remove_snapshot(
        &self,
        owner: Owner,
        vm: VmRef,
        name: SnapshotName,
    ) -> Result<VmRecord, VmError> {
        self.order(owner, vm, Order::RemoveSnapshot(name)).await
    }

    /// Takes one of the owner's VMs back to a snapshot.
    ///
    /// # Errors
    /// [`VmError::NotSupported`], [`VmError::SnapshotNotFound`], [`VmError::Conflict`].
    pub async fn restore(
        &self,
        owner: Owner,
        vm: VmRef,
        name: SnapshotName,
    ) -> Result<VmRecord, VmError> {
        self.order(owner, vm, Order::Restore(name)).await
    }

    /// Gives one of the owner's VMs another size, within what is `offered`.
    ///
    /// # Errors
    /// [`VmError::NotSupported`], [`VmError::Conflict`], [`VmError::InsufficientCapacity`],
    /// [`VmError::DiskCannotShrink`].
    pub async fn resize(
        &self,
        owner: Owner,
        vm: VmRef,
        size: VmResources,
        offered: Amount,
    ) -> Result<VmRecord, VmError> {
        self.order(owner, vm, Order::Resize(size, offered)).await
    }

    /// Whether one of the owner's VMs can be cloned as it is.
    ///
    /// # Errors
    /// [`VmError::NotSupported`], [`VmError::Conflict`].
    pub async fn check_clone(&self, owner: Owner, vm: VmRef) -> Result<VmRecord, VmError> {
        let record = self.find(owner, vm).await?;
        let (ability, what) = match record.state {
            VmState::Running => (Ability::LiveClone, "clone a VM that runs: stop it first"),
            _ => (Ability::Clone, "clone its VMs"),
        };
        self.world().check_ability(&record, Ability::Clone, "clone its VMs")?;
        self.world().check_ability(&record, ability, what)?;
        match decide(&record.state, Request::Clone) {
            Decision::Accept => Ok(record),
            Decision::Refuse(reason) => {
                let name = record.name.to_string();
                Err(VmError::Conflict { name, reason: reason.to_owned() })
            }
            Decision::Ignore | Decision::Gone => Err(VmError::NotFound(record.name.to_string())),
        }
    }

    /// What the backend that made a VM can do, if it is there.
    #[must_use]
    pub fn capabilities_of(&self, record: &VmRecord) -> Option<Arc<Capabilities>> {
        let present = self.world().backends.of(record.terms.backend).ok()?;
        Some(present.found.now())
    }

    /// The end of what a VM has written to its console.
    ///
    /// # Errors
    /// [`VmError::NotSupported`]; a [`BackendError`].
    pub async fn console_log(&self, record: &VmRecord) -> Result<ConsoleTail, VmError> {
        let backend = self.with_console(record)?;
        let console = backend.console().ok_or_else(|| no_console(record))?;
        Ok(timely(console.log(record.instance())).await?)
    }

    /// Opens the console of a running VM under the name `session`; whoever had it open loses it.
    ///
    /// # Errors
    /// [`VmError::NotSupported`], [`VmError::Conflict`]; a [`BackendError`].
    pub async fn open_console(
        &self,
        record: &VmRecord,
        session: &str,
    ) -> Result<(OpenConsole, Box<dyn Duplex>), VmError> {
        let backend = self.with_console(record)?;
        if !matches!(record.state, VmState::Running | VmState::Starting | VmState::Creating) {
            let (name, stage) = (record.name.to_string(), record.state.stage());
            let reason = format!("it is {stage}, and only a running VM can be spoken with");
            return Err(VmError::Conflict { name, reason });
        }
        let console = backend.console().ok_or_else(|| no_console(record))?;
        let guest = timely(console.attach(record.instance())).await?;
        Ok((self.consoles.open(record.id, session), guest))
    }

    /// Types a piece into the console of a VM that is open under the name `session`.
    ///
    /// # Errors
    /// [`VmError::NotSupported`]; [`VmError::Conflict`] when it is not open, or another piece has to come.
    pub async fn type_in(
        &self,
        record: &VmRecord,
        session: &str,
        number: u64,
        data: Vec<u8>,
    ) -> Result<u64, VmError> {
        self.with_console(record)?;
        let typed = self.consoles.type_in(record.id, session, number, data).await;
        typed.map_err(|error| VmError::Conflict {
            name: record.name.to_string(),
            reason: error.to_string(),
        })
    }

    fn with_console(&self, record: &VmRecord) -> Result<Arc<dyn Backend>, VmError> {
        self.world().check_ability(record, Ability::Console, NO_CONSOLE)?;
        Ok(self.world().backends.of(record.terms.backend)?.backend)
    }

    /// Has an instance of this spec made with the disk of `source`, in its turn among what is done to that.
    ///
    /// # Errors
    /// [`VmError::NotFound`] when it is gone; and why it can't be.
    pub(super) async fn lend(&self, source: VmId, spec: InstanceSpec) -> Result<(), VmError> {
        let record = self.world().repository.get(source).await?;
        let record = record.filter(|record| !matches!(record.state, VmState::Failed { .. }));
        let record = record.ok_or_else(|| VmError::NotFound(source.to_string()))?;
        self.tell(&record, Order::Lend(Box::new(spec))).await.map(|_| ())
    }
}
