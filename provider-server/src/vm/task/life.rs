//! Suspending, snapshots, other sizes, and lending a VM's disk to a clone of it.

use std::time::Duration;

use golem_vm_protocol::ErrorCode;
use golem_vm_protocol::vm::{Ability, Cause, SnapshotName};
use golem_vm_protocol::{VmId, VmResources};
use tokio::time::Instant;

use super::{
    BACKEND_DEADLINE, Order, Task, deadlined, failure_code, instance_is_gone, time_left, within,
};
use crate::backend::{BackendError, InstanceId, InstanceSpec, Observation, Snapshots};
use crate::capacity::Amount;
use crate::fail_point::{self, FailPoint};
use crate::vm::history::Reason;
use crate::vm::snapshot::{SnapshotRecord, SnapshotStage, SnapshotWanted};
use crate::vm::state::AfterStop;
use crate::vm::{VmError, VmRecord, VmState};

/// How long a call may take that moves a whole memory or a whole disk.
const LONG_DEADLINE: Duration = Duration::from_secs(300);

/// What a VM's backend has to be able to do for an order, and how it is said that it can't.
pub(super) fn needed(order: &Order, state: &VmState) -> Option<(Ability, &'static str)> {
    use crate::vm::policy::Request;

    let runs = *state == VmState::Running;
    match order {
        Order::Suspend(..) | Order::Request(Request::Resume, _) => {
            Some((Ability::Suspend, "suspend and resume its VMs"))
        }
        Order::Snapshot(..) if runs => {
            Some((Ability::LiveSnapshots, "make a snapshot of a VM that runs: stop it first"))
        }
        Order::Snapshot(..) | Order::RemoveSnapshot(_) | Order::Restore(_) => {
            Some((Ability::Snapshots, "make snapshots of its VMs"))
        }
        Order::Resize(..) => Some((Ability::Resize, "resize its VMs")),
        Order::Lend(_) if runs => Some((Ability::LiveClone, "clone a VM that runs: stop it first")),
        Order::Lend(_) => Some((Ability::Clone, "clone its VMs")),
        _ => None,
    }
}

impl Task {
    /// Whether the backend can do what an order needs.
    pub(super) fn check_ability(&self, order: &Order, record: &VmRecord) -> Result<(), VmError> {
        let Some((ability, what)) = needed(order, &record.state) else { return Ok(()) };
        self.world.check_ability(record, ability, what)
    }

    fn lacks(record: &VmRecord, what: &'static str) -> VmError {
        let (name, backend) = (record.name.to_string(), record.terms.backend);
        VmError::NotSupported { name, backend, what }
    }

    pub(super) async fn suspend(
        &mut self,
        offered: Amount,
        reason: Reason,
    ) -> Result<Option<VmRecord>, VmError> {
        let record = self.world.repository.suspending(self.id, offered, reason).await?;
        self.passed(&record);
        fail_point::reached(FailPoint::SuspendRecorded);
        self.suspend_as_meant(record).await
    }

    /// Brings it down with its memory kept. It may be so already, or have ended meanwhile.
    pub(super) async fn suspend_as_meant(
        &mut self,
        record: VmRecord,
    ) -> Result<Option<VmRecord>, VmError> {
        let id = record.instance();
        let done = match self.backend.suspend() {
            Some(suspends) => within(LONG_DEADLINE, suspends.suspend(id)).await,
            None => Err(BackendError::Failed("it can't be suspended any more".to_owned())),
        };
        let seen = match done {
            Ok(()) => within(BACKEND_DEADLINE, self.backend.observe(id)).await,
            Err(error) => Err(error),
        };
        self.acted = Instant::now();
        let (to, why) = match seen {
            Ok(Observation::Suspended) => {
                fail_point::reached(FailPoint::SuspendSuspended);
                self.lead_nowhere(&record).await;
                fail_point::reached(FailPoint::SuspendUnrouted);
                let done = Reason::own(Cause::Completed);
                return self.pass_to(VmState::Suspended, done).await.map(Some);
            }
            // It is carried on with when the backend answers.
            Err(error @ BackendError::Unavailable(_)) => {
                self.backend_was_away = true;
                return Err(error.into());
            }
            // As far as is known it runs on; what it does is looked at.
            Err(error) => {
                (VmState::Running, Reason::own(Cause::BackendFailed).with(error.to_string()))
            }
            Ok(Observation::Running { .. }) => {
                (VmState::Running, Reason::own(Cause::BackendFailed).with("it runs on"))
            }
            Ok(Observation::Stopped { .. }) => {
                self.lead_nowhere(&record).await;
                let said = "it ended before its memory was kept";
                let to = VmState::Stopped { reason: Some(said.to_owned()) };
                (to, Reason::own(Cause::MemoryLost).with(said))
            }
            Ok(Observation::Absent) => {
                self.lead_nowhere(&record).await;
                (instance_is_gone(), Reason::own(Cause::InstanceGone))
            }
            Ok(Observation::Broken { reason }) => {
                self.lead_nowhere(&record).await;
                let why = Reason::own(Cause::InstanceBroken).with(reason.clone());
                (VmState::Error { message: reason }, why)
            }
        };
        let said = why.detail.clone().unwrap_or_else(|| "its instance is gone".to_owned());
        self.pass_to(to, why).await?;
        Err(BackendError::Failed(format!("VM {} was not suspended: {said}", record.name)).into())
    }

    /// Starts the instance; one whose kept memory is of no use boots.
    pub(super) async fn start_instance(
        &mut self,
        record: &VmRecord,
        deadline: Instant,
    ) -> Result<(), (ErrorCode, String)> {
        let id = record.instance();
        let limit = time_left(deadline, self.backend.longest_start());
        let why = match within(limit, self.backend.start(id)).await {
            Err(BackendError::MemoryLost(why)) => why,
            outcome => return outcome.map_err(failure_code),
        };
        tracing::warn!(vm = %self.id, "it can't go on from its kept memory, and boots: {why}");
        let Some(suspends) = self.backend.suspend() else {
            return Err((ErrorCode::CreateFailed, why));
        };
        deadlined(deadline, suspends.forget(id)).await?;
        fail_point::reached(FailPoint::StartForgotten);
        let reason = Reason::own(Cause::MemoryLost).with(why);
        self.note(reason).await;
        deadlined(deadline, self.backend.start(id)).await
    }

    pub(super) async fn snapshot(
        &mut self,
        record: VmRecord,
        wanted: SnapshotWanted,
        offered: Amount,
    ) -> Result<Option<VmRecord>, VmError> {
        let Some(snapshots) = self.backend.snapshots() else {
            return Err(Self::lacks(&record, "make snapshots of its VMs"));
        };
        let repository = &self.world.repository;
        let runs = record.state == VmState::Running;
        let begin = || repository.snapshot_begun(self.id, wanted.clone(), runs, offered);
        let mut row = begin().await?;
        if row.stage == SnapshotStage::Ready {
            return Ok(Some(record));
        }
        if row.with_memory != runs {
            // It was begun before a kill, when the VM was in another state.
            within(LONG_DEADLINE, snapshots.remove(record.instance(), &row.name)).await?;
            repository.snapshot_gone(self.id, row.name, None).await?;
            row = begin().await?;
        }
        fail_point::reached(FailPoint::SnapshotRecorded);
        let made = make_snapshot(snapshots, record.instance(), &row).await;
        match made {
            Ok((bytes, with_memory)) => {
                fail_point::reached(FailPoint::SnapshotMade);
                repository.snapshot_made(self.id, row.name, bytes, with_memory).await?;
                fail_point::reached(FailPoint::SnapshotKept);
                Ok(Some(record))
            }
            Err(error) => {
                self.is_settled = false;
                if let Err(left) = self.settle(&record).await {
                    tracing::warn!(vm = %self.id, "removing a half-made snapshot: {left}; this is tried again");
                }
                Err(error.into())
            }
        }
    }

    pub(super) async fn remove_snapshot(
        &mut self,
        record: VmRecord,
        name: SnapshotName,
        reason: Reason,
    ) -> Result<Option<VmRecord>, VmError> {
        self.world.repository.snapshot_going(self.id, name.clone()).await?;
        self.is_settled = false;
        fail_point::reached(FailPoint::UnsnapshotRecorded);
        self.unmake(&record, name, Some(reason)).await?;
        self.is_settled = true;
        Ok(Some(record))
    }

    async fn unmake(
        &self,
        record: &VmRecord,
        name: SnapshotName,
        reason: Option<Reason>,
    ) -> Result<(), VmError> {
        let Some(snapshots) = self.backend.snapshots() else {
            return Err(Self::lacks(record, "make snapshots of its VMs"));
        };
        within(LONG_DEADLINE, snapshots.remove(record.instance(), &name)).await?;
        fail_point::reached(FailPoint::UnsnapshotRemoved);
        self.world.repository.snapshot_gone(self.id, name, reason).await?;
        fail_point::reached(FailPoint::UnsnapshotReleased);
        Ok(())
    }

    /// Removes what is left of snapshots that are not whole: of the making of one that was cut short, its client
    /// has heard nothing, and makes it anew if it asks again.
    pub(super) async fn settle(&mut self, record: &VmRecord) -> Result<(), VmError> {
        let standing = matches!(
            record.state,
            VmState::Running
                | VmState::Stopped { .. }
                | VmState::Suspended
                | VmState::Retained { .. }
        );
        if self.is_settled || !standing {
            return Ok(());
        }
        for row in self.world.repository.snapshots(self.id).await? {
            let reason = match row.stage {
                SnapshotStage::Ready => continue,
                SnapshotStage::Making => None,
                SnapshotStage::Removing => Some(Reason::own(Cause::SnapshotDeleted)),
            };
            self.unmake(record, row.name, reason).await?;
        }
        self.is_settled = true;
        Ok(())
    }

    pub(super) async fn restore(
        &mut self,
        record: VmRecord,
        name: SnapshotName,
        reason: Reason,
    ) -> Result<Option<VmRecord>, VmError> {
        let rows = self.world.repository.snapshots(self.id).await?;
        let found = rows.into_iter().find(|row| row.name == name);
        let Some(row) = found.filter(|row| row.stage == SnapshotStage::Ready) else {
            let vm = record.name.to_string();
            return Err(VmError::SnapshotNotFound { vm, snapshot: name.to_string() });
        };
        if let Some(reason) = row.misfit(record.terms.resources) {
            return Err(VmError::Conflict { name: record.name.to_string(), reason });
        }
        let run = row.with_memory || record.state == VmState::Running;
        let reason = reason.with(format!("it is taken back to its snapshot {name}"));
        self.bring_down(record, AfterStop::Restored { snapshot: name, run }, reason).await
    }

    /// It is down, and is taken back to a snapshot.
    pub(super) async fn take_back(
        &mut self,
        record: VmRecord,
        snapshot: SnapshotName,
        run: bool,
    ) -> Result<Option<VmRecord>, VmError> {
        let restored = match self.backend.snapshots() {
            Some(snapshots) => {
                within(LONG_DEADLINE, snapshots.restore(record.instance(), &snapshot)).await
            }
            None => Err(BackendError::Failed("it can't restore snapshots any more".to_owned())),
        };
        self.acted = Instant::now();
        match restored {
            Ok(()) => {
                fail_point::reached(FailPoint::RestoreRestored);
                let to = if run { VmState::Starting } else { VmState::STOPPED };
                let record = self.world.repository.restored(self.id, snapshot, to).await?;
                self.passed(&record);
                fail_point::reached(FailPoint::RestoreRecorded);
                if run {
                    return self.start(record, Reason::own(Cause::Completed)).await;
                }
                Ok(Some(record))
            }
            Err(error @ BackendError::Unavailable(_)) => {
                self.backend_was_away = true;
                Err(error.into())
            }
            Err(error) => {
                let said =
                    format!("it could not be taken back to its snapshot {snapshot}: {error}");
                let why = Reason::own(Cause::BackendFailed).with(said.clone());
                self.pass_to(VmState::Stopped { reason: Some(said) }, why).await?;
                Err(error.into())
            }
        }
    }

    pub(super) async fn resize(
        &mut self,
        size: VmResources,
        offered: Amount,
    ) -> Result<Option<VmRecord>, VmError> {
        let record = self.world.repository.resize(self.id, size, offered).await?;
        self.world.changed();
        fail_point::reached(FailPoint::ResizeRecorded);
        self.apply_size(record).await.map(Some).map_err(|error| match error {
            VmError::Backend(error) => BackendError::Failed(format!(
                "the new size is written down, but the VM does not have it yet: {error}; this is tried again"
            ))
            .into(),
            other => other,
        })
    }

    /// Makes the instance go by the size that is written down.
    pub(super) async fn apply_size(&mut self, record: VmRecord) -> Result<VmRecord, VmError> {
        if !record.resize_pending {
            return Ok(record);
        }
        let Some(resizes) = self.backend.resizes() else {
            return Err(Self::lacks(&record, "resize its VMs"));
        };
        let limits = record.instance_spec().limits;
        within(LONG_DEADLINE, resizes.resize(record.instance(), limits)).await?;
        fail_point::reached(FailPoint::ResizeApplied);
        let size = record.terms.resources;
        let now = self.world.repository.resized(self.id, size).await?;
        fail_point::reached(FailPoint::ResizeKept);
        tracing::info!(vm = %self.id, "it has {} now", Amount::from(size).words());
        Ok(now)
    }

    /// Makes an instance with this one's disk, for the VM that is a clone of this one: nothing else is done to
    /// this one meanwhile.
    pub(super) async fn lend(
        &mut self,
        record: VmRecord,
        spec: &InstanceSpec,
    ) -> Result<Option<VmRecord>, VmError> {
        let Some(clones) = self.backend.clones() else {
            return Err(Self::lacks(&record, "clone its VMs"));
        };
        within(LONG_DEADLINE, clones.ensure_clone(record.instance(), spec)).await?;
        fail_point::reached(FailPoint::CloneLent);
        Ok(Some(record))
    }

    /// Makes the instance of a clone, whose disk begins as that of `source`.
    pub(super) async fn copy_from(
        &mut self,
        source: VmId,
        record: &VmRecord,
    ) -> Result<(), (ErrorCode, String)> {
        let spec = record.instance_spec();
        match self.manager.lend(source, spec.clone()).await {
            Ok(()) => Ok(()),
            Err(VmError::Backend(error)) => Err(failure_code(error)),
            // It is made whole already, or will never be.
            Err(VmError::NotFound(_)) => {
                let Some(clones) = self.backend.clones() else {
                    return Err((ErrorCode::CreateFailed, "there are no clones here".to_owned()));
                };
                let made = clones.ensure_clone(InstanceId::of(source), &spec);
                within(LONG_DEADLINE, made).await.map_err(|error| match error {
                    BackendError::NoInstance(_) => {
                        let said = "the VM that it was to be a clone of is gone".to_owned();
                        (ErrorCode::CreateFailed, said)
                    }
                    error => failure_code(error),
                })
            }
            Err(error) => Err((ErrorCode::CreateFailed, error.to_string())),
        }
    }
}

/// Makes it, and says what it takes and whether it has the memory.
async fn make_snapshot(
    snapshots: &dyn Snapshots,
    id: InstanceId,
    row: &SnapshotRecord,
) -> Result<(Option<u64>, bool), BackendError> {
    within(LONG_DEADLINE, snapshots.create(id, &row.name)).await?;
    let made = within(BACKEND_DEADLINE, snapshots.list(id)).await?;
    let made = made.into_iter().find(|made| made.name == row.name);
    let made = made.ok_or_else(|| BackendError::NoSnapshot(row.name.clone()))?;
    Ok((made.bytes, made.with_memory))
}
