//! Up, down, and gone.

use std::time::Duration;

use golem_vm_protocol::ErrorCode;
use golem_vm_protocol::vm::{Actor, Cause};
use tokio::time::Instant;

use super::{BACKEND_DEADLINE, Task, instance_is_gone, within};
use crate::backend::{BackendError, Started};
use crate::fail_point::{self, FailPoint};
use crate::vm::history::Reason;
use crate::vm::state::AfterStop;
use crate::vm::{VmError, VmRecord, VmState};

/// How long a guest has to end by itself.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// The same for one that does harm meanwhile.
const HARSH_GRACE: Duration = Duration::from_secs(2);

impl Task {
    pub(super) async fn start(
        &mut self,
        record: VmRecord,
        reason: Reason,
    ) -> Result<Option<VmRecord>, VmError> {
        let before = record.state.clone();
        let record = self.pass_to(VmState::Starting, reason).await?;
        fail_point::reached(FailPoint::StartRecorded);
        if let Err(error) = self.authorize(record.clone()).await {
            // A guest that has spoilt its own files still starts; this is tried again then.
            tracing::warn!(vm = %self.id, "its SSH keys could not be changed: {error}");
        }
        let deadline = Instant::now() + self.world.launch_timeout;
        let record = match self.apply_size(record.clone()).await {
            Ok(record) => record,
            Err(error) => {
                tracing::warn!(vm = %self.id, "its new size: {error}; this is tried again");
                record
            }
        };
        let outcome = match self.start_instance(&record, deadline).await {
            Ok(()) => {
                fail_point::reached(FailPoint::StartStarted);
                self.connect(&record, Started::Boots, deadline).await
            }
            Err(failure) => Err(failure),
        };
        self.acted = Instant::now();
        match outcome {
            Ok(()) => {
                fail_point::reached(FailPoint::StartConnected);
                self.pass_to(VmState::Running, Reason::own(Cause::Completed)).await.map(Some)
            }
            Err((ErrorCode::BackendUnavailable, reason)) => {
                self.backend_was_away = true;
                // Nothing is known to have changed. What was meant to run is tried again when the
                // backend answers; what was not is left as it was.
                if !matches!(before, VmState::Starting | VmState::Running) {
                    let why = Reason::own(Cause::BackendUnavailable).with(reason.clone());
                    self.pass_to(before, why).await?;
                }
                Err(BackendError::Unavailable(reason).into())
            }
            Err((_, reason)) => {
                let message =
                    format!("it did not start: {reason}. Try 'start' again, or destroy it.");
                self.lead_nowhere(&record).await;
                fail_point::reached(FailPoint::StartFailed);
                let why = Reason::own(Cause::LaunchFailed).with(reason);
                self.pass_to(VmState::Error { message: message.clone() }, why).await?;
                Err(BackendError::Failed(format!("VM {}: {message}", record.name)).into())
            }
        }
    }

    pub(super) async fn stop(
        &mut self,
        record: VmRecord,
        reason: Reason,
    ) -> Result<Option<VmRecord>, VmError> {
        self.bring_down(record, AfterStop::Stopped { reason: None }, reason).await
    }

    /// Stops it if it runs; its owner is told why.
    pub(super) async fn stop_because(
        &mut self,
        record: VmRecord,
        reason: Reason,
    ) -> Result<Option<VmRecord>, VmError> {
        if record.state != VmState::Running {
            return Ok(Some(record));
        }
        let said = reason.detail.clone().unwrap_or_default();
        tracing::warn!(vm = %self.id, name = %record.name, "stopping it: {said}");
        self.bring_down(record, AfterStop::Stopped { reason: reason.detail.clone() }, reason).await
    }

    pub(super) async fn restart(
        &mut self,
        record: VmRecord,
        reason: Reason,
    ) -> Result<Option<VmRecord>, VmError> {
        self.bring_down(record, AfterStop::Started, reason).await
    }

    /// Brings it down, to what comes then.
    pub(super) async fn bring_down(
        &mut self,
        record: VmRecord,
        next: AfterStop,
        reason: Reason,
    ) -> Result<Option<VmRecord>, VmError> {
        let before = record.state.clone();
        let by = reason.actor;
        let record = self.pass_to(VmState::Stopping { next: next.clone() }, reason.clone()).await?;
        fail_point::reached(FailPoint::StopRecorded);
        let grace = match next {
            // What it still does is lost anyway.
            AfterStop::Restored { .. } => Duration::ZERO,
            _ if reason.cause == Cause::DiskLimit => HARSH_GRACE,
            _ => STOP_GRACE,
        };
        let stopping = self.backend.stop(record.instance(), grace);
        let stopped = within(BACKEND_DEADLINE + grace, stopping).await;
        self.acted = Instant::now();
        match stopped {
            Ok(()) => {
                fail_point::reached(FailPoint::StopStopped);
                self.lead_nowhere(&record).await;
                fail_point::reached(FailPoint::StopUnrouted);
                self.arrive(record, next, by).await
            }
            Err(error) => {
                let (state, cause) = match (&error, before) {
                    (BackendError::NoInstance(_), _) => (instance_is_gone(), Cause::InstanceGone),
                    // It is on its way down, and is brought there when the backend answers. So is what the
                    // provider itself wants down: nobody waits who could ask again.
                    (BackendError::Unavailable(_), VmState::Stopping { .. }) => {
                        self.backend_was_away = true;
                        return Err(error.into());
                    }
                    (BackendError::Unavailable(_), _) if by == Actor::Provider => {
                        self.backend_was_away = true;
                        return Err(error.into());
                    }
                    (BackendError::Unavailable(_), before) => (before, Cause::BackendUnavailable),
                    // What is half-way down is looked at until it is known how it ended.
                    (_, VmState::Stopping { .. }) => (
                        VmState::Error { message: format!("it could not be stopped: {error}") },
                        Cause::BackendFailed,
                    ),
                    (_, before) => (before, Cause::BackendFailed),
                };
                self.pass_to(state, Reason::own(cause).with(error.to_string())).await?;
                Err(error.into())
            }
        }
    }

    /// It is down: what was meant to come then comes.
    async fn arrive(
        &mut self,
        record: VmRecord,
        next: AfterStop,
        by: Actor,
    ) -> Result<Option<VmRecord>, VmError> {
        let done = Reason::own(Cause::Completed);
        match next {
            AfterStop::Stopped { reason } => {
                self.pass_to(VmState::Stopped { reason }, done).await.map(Some)
            }
            AfterStop::Started => {
                self.start(record, Reason::new(by, Cause::Requested).with("it is restarted")).await
            }
            AfterStop::Retained { reason } => self.keep(record, reason, done).await,
            AfterStop::Restored { snapshot, run } => self.take_back(record, snapshot, run).await,
        }
    }

    /// Brings down what an earlier run of the program was bringing down.
    pub(super) async fn stop_as_meant(
        &mut self,
        record: VmRecord,
    ) -> Result<Option<VmRecord>, VmError> {
        let VmState::Stopping { next } = record.state.clone() else { return Ok(Some(record)) };
        self.bring_down(record, next, Reason::own(Cause::Recovered)).await
    }

    pub(super) async fn destroy(
        &mut self,
        record: VmRecord,
        reason: Reason,
    ) -> Result<Option<VmRecord>, VmError> {
        self.pass_to(VmState::Destroying, reason).await?;
        fail_point::reached(FailPoint::DestroyRecorded);
        self.lead_nowhere(&record).await;
        fail_point::reached(FailPoint::DestroyUnrouted);
        self.remove_instance(&record).await?;
        fail_point::reached(FailPoint::DestroyRemoved);
        self.world.repository.remove(self.id, Reason::own(Cause::Completed)).await?;
        fail_point::reached(FailPoint::DestroyReleased);
        self.gone = true;
        self.world.changed();
        tracing::info!(vm = %self.id, name = %record.name, "VM destroyed");
        Ok(None)
    }
}
