//! What a lease asks for: a warning, the end, and the end of the grace after it.

use std::time::Duration;

use golem_vm_protocol::time::in_words;
use golem_vm_protocol::vm::{Cause, OnExpiry};
use tokio::time::timeout;

use super::Task;
use crate::capacity::Amount;
use crate::fail_point::{self, FailPoint};
use crate::steady::SteadyTime;
use crate::vm::history::Reason;
use crate::vm::lease::{Due, next_due};
use crate::vm::state::AfterStop;
use crate::vm::{VmError, VmRecord, VmState};

/// How long telling those who are logged in may take.
const NOTIFY: Duration = Duration::from_secs(10);
/// After how long what could not be done when it was due is tried again.
const AGAIN: Duration = Duration::from_secs(5);

impl Task {
    /// Does what is due, if anything is.
    pub(super) async fn look_at_the_clock(&mut self) {
        let now = self.world.steady.now();
        if self.due.is_none_or(|due| now < due) {
            return;
        }
        let outcome = self.do_what_is_due(now).await;
        if let Err(error) = outcome {
            tracing::warn!(vm = %self.id, "what its lease asks for: {error}; this is tried again");
            self.due = Some(now.plus(AGAIN));
        }
        self.world.changed();
    }

    async fn do_what_is_due(&mut self, now: SteadyTime) -> Result<(), VmError> {
        let record = self.record().await?;
        self.expect_due(&record);
        let Some((_, due)) = next_due(&record.state, &record.lease).filter(|(at, _)| *at <= now)
        else {
            return Ok(());
        };
        match due {
            Due::Warn => self.warn(record, now).await,
            Due::Expire => {
                fail_point::reached(FailPoint::LeaseEnded);
                self.expire(record).await
            }
            Due::Erase => {
                fail_point::reached(FailPoint::LeaseGraceEnded);
                let reason = Reason::own(Cause::GraceEnded);
                tracing::info!(vm = %self.id, name = %record.name, "its grace period has ended: it is erased");
                self.destroy(record, reason).await.map(|_| ())
            }
        }
    }

    async fn warn(&mut self, record: VmRecord, now: SteadyTime) -> Result<(), VmError> {
        if record.state == VmState::Running && record.quarantined_at.is_none() {
            self.tell_its_users(&record, now).await;
        }
        fail_point::reached(FailPoint::LeaseWarned);
        let record = self.world.repository.warned(self.id).await?;
        self.expect_due(&record);
        Ok(())
    }

    /// The guest may do with it what it likes; that it was told counts.
    async fn tell_its_users(&self, record: &VmRecord, now: SteadyTime) {
        let Some(notifier) = self.backend.notifier() else { return };
        let left = record.lease.expires.map_or(Duration::ZERO, |end| end.since(now));
        let then = match record.lease.grant.on_expiry {
            OnExpiry::Destroy => "destroyed",
            OnExpiry::Stop | OnExpiry::Unknown => "stopped",
        };
        let line = format!(
            "The lease of this VM ends in {}, and it is {then} then. To keep it: golem vm extend {} --for 1d",
            in_words(left.as_secs()),
            record.name
        );
        match timeout(NOTIFY, notifier.notify(record.instance(), &line)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(vm = %self.id, "telling its users: {error}"),
            Err(_) => tracing::debug!(vm = %self.id, "telling its users took too long"),
        }
    }

    async fn expire(&mut self, record: VmRecord) -> Result<(), VmError> {
        tracing::info!(vm = %self.id, name = %record.name, "its lease has ended");
        let reason = Reason::own(Cause::LeaseExpired).with("its lease has ended");
        match record.lease.grant.on_expiry {
            OnExpiry::Destroy => self.destroy(record, reason).await.map(|_| ()),
            OnExpiry::Stop | OnExpiry::Unknown => self.retain(record, reason).await.map(|_| ()),
        }
    }

    /// Brings it down if it is up, and keeps it for the grace period only.
    pub(super) async fn retain(
        &mut self,
        record: VmRecord,
        reason: Reason,
    ) -> Result<Option<VmRecord>, VmError> {
        let said = reason.detail.clone().unwrap_or_default();
        if matches!(record.state, VmState::Stopped { .. } | VmState::Suspended) {
            return self.keep(record, said, reason).await;
        }
        let broken = matches!(record.state, VmState::Error { .. });
        match self
            .bring_down(record, AfterStop::Retained { reason: said.clone() }, reason.clone())
            .await
        {
            // What has no instance that could be stopped is down.
            Err(VmError::Backend(error)) if broken && !error.is_unavailable() => {
                let record = self.record().await?;
                self.keep(record, said, reason).await
            }
            outcome => outcome,
        }
    }

    /// It is down, and kept for the grace period. Without one it is destroyed.
    pub(super) async fn keep(
        &mut self,
        record: VmRecord,
        said: String,
        reason: Reason,
    ) -> Result<Option<VmRecord>, VmError> {
        let grace = record.lease.grant.grace;
        if grace.is_zero() {
            return self.destroy(record, Reason::own(Cause::GraceEnded)).await;
        }
        let since = self.world.steady.now();
        let state = VmState::Retained { since, until: since.plus(grace), reason: said };
        let kept = self.pass_to(state, reason).await?;
        fail_point::reached(FailPoint::LeaseKept);
        Ok(Some(kept))
    }

    pub(super) async fn extend(&mut self, until: SteadyTime) -> Result<VmRecord, VmError> {
        let record = self.world.repository.extend(self.id, until).await?;
        fail_point::reached(FailPoint::LeaseExtended);
        self.expect_due(&record);
        Ok(record)
    }

    pub(super) async fn undelete(
        &mut self,
        lasting: Duration,
        offered: Amount,
    ) -> Result<VmRecord, VmError> {
        let record = self.world.repository.undelete(self.id, lasting, offered).await?;
        fail_point::reached(FailPoint::LeaseUndeleted);
        self.expect_due(&record);
        Ok(record)
    }
}
