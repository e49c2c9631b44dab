//! Looks for orphans, and removes those whose grace is over.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use golem_vm_protocol::time::in_words;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::{Orphan, OrphanRegister};
use crate::backend::{Backend, BackendError, InstanceId};
use crate::fail_point::{self, FailPoint};
use crate::vm::VmError;

/// How often it looks.
const INTERVAL: Duration = Duration::from_secs(300);
/// How soon it looks again when it could not find out, and at the soonest.
const SOON: Duration = Duration::from_secs(15);
/// How long one call to the backend may take.
const DEADLINE: Duration = Duration::from_secs(60);

/// Looks after the instances of one backend.
pub struct Sweeper {
    backend: Arc<dyn Backend>,
    register: Arc<dyn OrphanRegister>,
    grace: Duration,
}

/// What one look came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Swept {
    /// The orphans that are there still.
    pub left: Vec<Orphan>,
    /// Those that have been removed.
    pub removed: Vec<InstanceId>,
}

impl Sweeper {
    /// For this backend; an orphan is removed `grace` after it was noticed.
    #[must_use]
    pub fn new(
        backend: Arc<dyn Backend>,
        register: Arc<dyn OrphanRegister>,
        grace: Duration,
    ) -> Self {
        Self { backend, register, grace }
    }

    /// Looks at once, then every five minutes and when a period of grace is over, until `token` is cancelled.
    pub async fn run(self, token: CancellationToken) {
        let mut known = BTreeSet::new();
        let mut timer = interval(INTERVAL);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = token.cancelled() => return,
                _ = timer.tick() => {}
            }
            let swept = tokio::select! {
                () = token.cancelled() => return,
                swept = self.sweep() => swept,
            };
            match swept {
                Ok(swept) => {
                    self.tell_of_new(&swept.left, &known);
                    let due = swept.left.iter().map(|one| self.grace.saturating_sub(one.known_for));
                    if let Some(due) = due.min() {
                        timer.reset_after(due.clamp(SOON, INTERVAL));
                    }
                    known = swept.left.into_iter().map(|orphan| orphan.instance).collect();
                }
                Err(error) => {
                    tracing::debug!("looking for instances without a VM: {error}");
                    timer.reset_after(SOON);
                }
            }
        }
    }

    fn tell_of_new(&self, orphans: &[Orphan], known: &BTreeSet<InstanceId>) {
        for orphan in orphans.iter().filter(|orphan| !known.contains(&orphan.instance)) {
            tracing::warn!(
                instance = %orphan.instance, since = %orphan.first_seen_at,
                "this instance carries this provider's label, and belongs to no VM in its database: it is \
                 removed {} after it was first seen (GOLEM_PROVIDER_ORPHAN_GRACE). If the database was \
                 lost, put it back before that",
                in_words(self.grace.as_secs())
            );
        }
    }

    /// Looks once.
    ///
    /// # Errors
    /// When backend or database could not be asked; then nothing has been changed for it.
    pub async fn sweep(&self) -> Result<Swept, VmError> {
        let orphans = look(&*self.backend, &*self.register).await?;
        let mut swept = Swept::default();
        let noted = self.register.note(self.backend.kind(), orphans).await?;
        if !noted.is_empty() {
            fail_point::reached(FailPoint::OrphanNoted);
        }
        for orphan in noted {
            if orphan.known_for < self.grace || !self.remove(&orphan).await {
                swept.left.push(orphan);
            } else {
                swept.removed.push(orphan.instance);
            }
        }
        if !swept.removed.is_empty() {
            let left = swept.left.iter().map(|orphan| orphan.instance).collect();
            self.register.note(self.backend.kind(), left).await?;
        }
        Ok(swept)
    }

    async fn remove(&self, orphan: &Orphan) -> bool {
        match in_time(self.backend.destroy(orphan.instance)).await {
            Ok(()) => {
                fail_point::reached(FailPoint::OrphanRemoved);
                tracing::warn!(
                    instance = %orphan.instance, since = %orphan.first_seen_at,
                    "removed: this instance carried this provider's label, and belonged to no VM"
                );
                true
            }
            Err(error) => {
                tracing::warn!(instance = %orphan.instance, "removing it: {error}; this is tried again");
                false
            }
        }
    }
}

/// The instances that belong to no VM, by two answers of the backend with the rows read in between: a
/// VM that is just being destroyed loses its instance before its row.
///
/// # Errors
/// When backend or database could not be asked.
pub(crate) async fn look(
    backend: &dyn Backend,
    register: &dyn OrphanRegister,
) -> Result<Vec<InstanceId>, VmError> {
    let suspects = register.without_vm(in_time(backend.list()).await?).await?;
    if suspects.is_empty() {
        return Ok(suspects);
    }
    let again: BTreeSet<InstanceId> = in_time(backend.list()).await?.into_iter().collect();
    Ok(suspects.into_iter().filter(|suspect| again.contains(suspect)).collect())
}

/// A call to the backend that is answered within a minute, or could not be asked.
pub(crate) async fn in_time<T>(
    call: impl Future<Output = Result<T, BackendError>>,
) -> Result<T, BackendError> {
    match timeout(DEADLINE, call).await {
        Ok(answer) => answer,
        Err(_) => Err(BackendError::Unavailable(format!(
            "the backend did not answer within {} seconds",
            DEADLINE.as_secs()
        ))),
    }
}
