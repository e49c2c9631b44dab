//! Compares a VM with its instance. *Stopped*, *absent*, *broken* and *could not ask* are four answers, and
//! the last one changes nothing.

use std::time::Duration;

use golem_vm_protocol::vm::{Actor, Cause};

use tokio::time::Instant;

use super::{BACKEND_DEADLINE, Task, instance_is_gone, within};
use crate::backend::{EndedBy, Observation};
use crate::fail_point::{self, FailPoint};
use crate::vm::history::Reason;
use crate::vm::{VmError, VmRecord, VmState};

/// An engine that is told to end stops its instances first, and answers meanwhile: they seem to end by
/// themselves. It is gone within this time then.
const ENGINE_END: Duration = Duration::from_secs(30);

impl Task {
    /// Looks at what the last survey saw of the instance.
    pub(super) async fn see(&mut self) {
        let (asked, interruptions, seen) = {
            let survey = self.surveys.borrow_and_update();
            match survey.of(self.id) {
                Some(seen) => (survey.asked(), survey.interruptions(), seen),
                None => return,
            }
        };
        if std::mem::replace(&mut self.interruptions, interruptions) != interruptions {
            self.went_away();
        }
        // It was asked before the last thing that was done here: it may show what was then.
        if asked <= self.acted {
            return;
        }
        let seen = match seen {
            Ok(seen) => seen,
            Err(error) => {
                if !self.backend_was_away {
                    tracing::warn!(vm = %self.id, "looking at it: {error}");
                }
                self.went_away();
                return;
            }
        };
        let mut outcome = match self.record().await {
            Ok(record) => self.compare(record, seen).await,
            Err(error) => Err(error),
        };
        if outcome.is_ok() && !self.is_settled && !self.gone {
            outcome = match self.record().await {
                Ok(record) => self.settle(&record).await,
                Err(error) => Err(error),
            };
        }
        if let Err(error) = outcome {
            tracing::warn!(vm = %self.id, "{error}; this is tried again");
        }
    }

    fn went_away(&mut self) {
        self.backend_was_away = true;
        let ended = self.ended_by_itself.take();
        self.taken_down |= ended.is_some_and(|when| when.elapsed() < ENGINE_END);
    }

    async fn compare(&mut self, record: VmRecord, seen: Observation) -> Result<(), VmError> {
        match (&record.state, &seen) {
            // Something was begun and could not be done: the backend answers now.
            (
                VmState::Creating
                | VmState::Starting
                | VmState::Stopping { .. }
                | VmState::Suspending
                | VmState::Destroying,
                _,
            ) => {
                self.backend_was_away = false;
                return self.carry_on(record).await.map(|_| ());
            }
            (VmState::Running, Observation::Running { ssh }) => {
                self.backend_was_away = false;
                if self.target != Some(*ssh) {
                    self.lead_to(&record, *ssh).await;
                    fail_point::reached(FailPoint::ReconcileRouted);
                }
                let record = self.apply_size(record).await?;
                return self.authorize(record).await.map(|_| ());
            }
            // It is as it should be, or its owner knows what is wrong.
            (VmState::Stopped { .. } | VmState::Retained { .. }, Observation::Stopped { .. })
            | (VmState::Suspended | VmState::Retained { .. }, Observation::Suspended)
            | (VmState::Error { .. }, Observation::Absent | Observation::Broken { .. }) => {
                self.backend_was_away = false;
                if std::mem::take(&mut self.taken_down)
                    && matches!(record.state, VmState::Stopped { .. })
                {
                    tracing::info!(vm = %self.id, "the engine had taken its instance down: starting it again");
                    let reason = Reason::new(Actor::Host, Cause::HostStopped);
                    return self.start(record, reason).await.map(|_| ());
                }
                if matches!(record.state, VmState::Stopped { .. }) {
                    self.apply_size(record).await?;
                }
                return Ok(());
            }
            _ => {}
        }
        // Its fate changes only by what is seen twice.
        let again = within(BACKEND_DEADLINE, self.backend.observe(record.instance())).await?;
        let was_away = std::mem::take(&mut self.backend_was_away);
        self.follow(record, again, was_away).await
    }

    async fn follow(
        &mut self,
        record: VmRecord,
        seen: Observation,
        was_away: bool,
    ) -> Result<(), VmError> {
        fail_point::reached(FailPoint::ReconcileDiffers);
        let (next, reason) = match (&record.state, seen) {
            (
                VmState::Stopped { .. } | VmState::Suspended | VmState::Error { .. },
                Observation::Running { ssh },
            ) => {
                self.lead_to(&record, ssh).await;
                (VmState::Running, Reason::new(Actor::Host, Cause::FoundRunning))
            }
            // Its lease has ended, whoever started it.
            (VmState::Retained { reason, .. }, Observation::Running { .. }) => {
                let why = Reason::own(Cause::FoundRunning).with(reason.clone());
                let next = crate::vm::state::AfterStop::Retained { reason: reason.clone() };
                return self.bring_down(record, next, why).await.map(|_| ());
            }
            // Somebody else has suspended it: it was meant to run.
            (VmState::Running, Observation::Suspended) => {
                tracing::info!(vm = %self.id, "its instance was suspended from outside: it goes on");
                let reason = Reason::new(Actor::Host, Cause::HostStopped);
                return self.start(record, reason).await.map(|_| ());
            }
            (VmState::Stopped { .. } | VmState::Error { .. }, Observation::Suspended) => (
                VmState::Suspended,
                Reason::own(Cause::Recovered).with("its memory is kept, and it does not run"),
            ),
            (VmState::Suspended, Observation::Stopped { .. }) => {
                let said = "its kept memory is gone: it boots when it is started";
                let why = Reason::new(Actor::Host, Cause::MemoryLost).with(said);
                (VmState::Stopped { reason: Some(said.to_owned()) }, why)
            }
            // The engine was away and took the VM down with it: it was meant to run.
            (VmState::Running, Observation::Stopped { by, .. })
                if was_away && by != EndedBy::Guest =>
            {
                tracing::info!(vm = %self.id, "its instance was stopped from outside: starting it again");
                let reason = Reason::new(Actor::Host, Cause::HostStopped);
                return self.start(record, reason).await.map(|_| ());
            }
            // It can be started; what was wrong with it remains to be read.
            (VmState::Error { message }, Observation::Stopped { .. }) => (
                VmState::Stopped { reason: Some(message.clone()) },
                Reason::own(Cause::Recovered).with("its instance is there, and does not run"),
            ),
            (VmState::Running, Observation::Stopped { exit_code, out_of_memory, .. }) => {
                self.lead_nowhere(&record).await;
                self.ended_by_itself = (!out_of_memory).then(Instant::now);
                let (reason, said) = by_itself(exit_code, out_of_memory);
                (VmState::Stopped { reason: said }, reason)
            }
            (
                VmState::Running
                | VmState::Stopped { .. }
                | VmState::Suspended
                | VmState::Retained { .. },
                Observation::Absent,
            ) => {
                self.lead_nowhere(&record).await;
                (instance_is_gone(), Reason::new(Actor::Host, Cause::InstanceGone))
            }
            (
                VmState::Running
                | VmState::Stopped { .. }
                | VmState::Suspended
                | VmState::Retained { .. },
                Observation::Broken { reason },
            ) => {
                self.lead_nowhere(&record).await;
                let why = Reason::new(Actor::Host, Cause::InstanceBroken).with(reason.clone());
                (VmState::Error { message: reason }, why)
            }
            _ => return Ok(()),
        };
        tracing::info!(vm = %self.id, from = %record.state.stage(), to = %next.stage(), "state follows the instance");
        self.pass_to(next, reason).await?;
        fail_point::reached(FailPoint::ReconcileRecorded);
        Ok(())
    }
}

/// What is said of a VM that was meant to run and does not.
fn by_itself(exit_code: Option<i64>, out_of_memory: bool) -> (Reason, Option<String>) {
    if out_of_memory {
        let said = "it ended because it used more memory than it rents".to_owned();
        return (Reason::new(Actor::Guest, Cause::OutOfMemory), Some(said));
    }
    let reason = Reason::new(Actor::Guest, Cause::GuestShutDown);
    match exit_code {
        Some(code) if code != 0 => (reason.with(format!("exit code {code}")), None),
        _ => (reason, None),
    }
}
