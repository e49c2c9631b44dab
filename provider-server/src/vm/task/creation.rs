//! Brings a VM into being, in steps. Each can be begun again after a crash in its middle, and each can
//! undo what it did, whether it came to its end or not.

use std::sync::Arc;
use std::time::Duration;

use golem_vm_protocol::ErrorCode;
use golem_vm_protocol::vm::Cause;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::{BACKEND_DEADLINE, Task, deadlined, failure_code, time_left, within};
use crate::backend::{BackendError, Observation, Started};
use crate::fail_point::{self, FailPoint};
use crate::vm::VmRecord;
use crate::vm::readiness::ssh_answers;

/// The steps, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The instance exists.
    Instance,
    /// It runs.
    Power,
    /// SSH answers, and the VM's port leads there.
    Access,
}

impl Step {
    const ALL: [Self; 3] = [Self::Instance, Self::Power, Self::Access];

    /// What its owner is told meanwhile.
    const fn phase(self) -> &'static str {
        match self {
            Self::Instance => "creating the instance",
            Self::Power => "starting it",
            Self::Access => "waiting for SSH",
        }
    }

    /// The moment after it.
    const fn done(self) -> FailPoint {
        match self {
            Self::Instance => FailPoint::CreateInstanceMade,
            Self::Power => FailPoint::CreateStarted,
            Self::Access => FailPoint::CreateConnected,
        }
    }

    /// A call to the backend is never cut short by a destroy: what it makes would appear after
    /// the destroy has found nothing to remove. Only the waiting in between is.
    async fn perform(
        self,
        task: &mut Task,
        record: &VmRecord,
        before: Reached,
        deadline: Instant,
    ) -> Result<Reached, CreationEnd> {
        let backend = Arc::clone(&task.backend);
        match self {
            Self::Instance => match record.clone_of {
                None => {
                    let limit = time_left(deadline, backend.longest_start());
                    let ensured = within(limit, backend.ensure(&record.instance_spec())).await;
                    ensured.map_err(failure_code)?;
                }
                Some(source) => task.copy_from(source, record).await?,
            },
            Self::Power => {
                let (progress, words) = mpsc::channel(WORDS);
                let limit = time_left(deadline, backend.longest_start());
                let spec = record.instance_spec();
                let start = within(limit, backend.first_start(&spec, progress));
                let (started, told) = tokio::join!(start, task.pass_on(words));
                return Ok(Reached { told, started: started.map_err(failure_code)? });
            }
            Self::Access => {
                let abandon = task.abandon.clone();
                tokio::select! {
                    biased;
                    () = abandon.cancelled() => return Err(CreationEnd::Abandoned),
                    connected = task.connect(record, before.started, deadline) => connected?,
                }
            }
        }
        Ok(Reached::default())
    }

    async fn undo(self, task: &mut Task, record: &VmRecord) -> Result<(), BackendError> {
        match self {
            Self::Instance => task.remove_instance(record).await,
            // Removing the instance ends it.
            Self::Power => Ok(()),
            Self::Access => {
                task.lead_nowhere(record).await;
                Ok(())
            }
        }
    }
}

/// What the next step has to know of the one before.
#[derive(Debug, Clone, Copy, Default)]
struct Reached {
    /// Whether the backend has said what takes its time.
    told: bool,
    started: Started,
}

/// How many of a backend's words may wait to be written down.
const WORDS: usize = 4;

/// Why a creation ended without a VM.
enum CreationEnd {
    Failed(ErrorCode, String),
    Abandoned,
    /// The program ends; the next start carries on.
    Interrupted,
}

impl From<(ErrorCode, String)> for CreationEnd {
    fn from((code, reason): (ErrorCode, String)) -> Self {
        Self::Failed(code, reason)
    }
}

impl Task {
    pub(super) async fn create(&mut self, record: VmRecord) {
        let shutdown = self.world.shutdown.clone();
        let deadline = Instant::now() + self.world.launch_timeout;
        let mut begun = Vec::new();
        let outcome = tokio::select! {
            biased;
            () = shutdown.cancelled() => Err(CreationEnd::Interrupted),
            result = self.take_steps(&record, &mut begun, deadline) => result,
        };
        let outcome = match outcome {
            Ok(()) => match self.world.repository.created(self.id).await {
                Ok(record) => Ok(record),
                Err(error) => Err(CreationEnd::Failed(ErrorCode::Internal, error.to_string())),
            },
            Err(end) => Err(end),
        };
        self.acted = Instant::now();
        match outcome {
            Ok(record) => {
                fail_point::reached(FailPoint::CreateRecorded);
                self.expect_due(&record);
                tracing::info!(vm = %self.id, name = %record.name, port = record.ssh_port, "VM runs");
            }
            Err(CreationEnd::Interrupted) => {}
            // The destroy that cut it short waits in the queue and does the rest.
            Err(CreationEnd::Abandoned) => {
                self.end_operation(
                    ErrorCode::CreateFailed,
                    "it was destroyed while it was being created".to_owned(),
                    Cause::Abandoned,
                )
                .await;
                fail_point::reached(FailPoint::CreateAbandoned);
            }
            Err(CreationEnd::Failed(code, message)) => {
                tracing::warn!(vm = %self.id, %code, "VM could not be created: {message}");
                self.undo_creation(&record, begun, code, message).await;
            }
        }
        self.world.changed();
    }

    async fn take_steps(
        &mut self,
        record: &VmRecord,
        begun: &mut Vec<Step>,
        deadline: Instant,
    ) -> Result<(), CreationEnd> {
        let mut before = Reached::default();
        for step in Step::ALL {
            if self.abandon.is_cancelled() {
                return Err(CreationEnd::Abandoned);
            }
            // What the backend has said is what is waited for.
            if step != Step::Access || !before.told {
                self.phase(step.phase()).await;
            }
            begun.push(step);
            before = step.perform(self, record, before, deadline).await?;
            fail_point::reached(step.done());
        }
        Ok(())
    }

    /// Finds the running instance, waits until SSH answers unless it is known to, and leads the VM's port to it.
    pub(super) async fn connect(
        &mut self,
        record: &VmRecord,
        started: Started,
        deadline: Instant,
    ) -> Result<(), (ErrorCode, String)> {
        let backend = Arc::clone(&self.backend);
        let target = match deadlined(deadline, backend.observe(record.instance())).await? {
            Observation::Running { ssh } => ssh,
            Observation::Stopped { exit_code, out_of_memory, .. } => {
                return Err((ErrorCode::CreateFailed, ended_at_once(exit_code, out_of_memory)));
            }
            Observation::Absent => {
                return Err((
                    ErrorCode::CreateFailed,
                    "its instance disappeared while it started".to_owned(),
                ));
            }
            Observation::Broken { reason } => return Err((ErrorCode::CreateFailed, reason)),
            Observation::Suspended => {
                return Err((ErrorCode::CreateFailed, "it does not go on".to_owned()));
            }
        };
        // One that is cut off can't answer anybody.
        let waits = started == Started::Boots && record.quarantined_at.is_none();
        let readiness = tokio::select! {
            ready = ssh_answers(target, deadline), if waits => ready,
            ended = self.ended_early(record), if waits => Err(ended),
            else => Ok(()),
        };
        readiness.map_err(|last| {
            (
                ErrorCode::CreateFailed,
                format!("its SSH server did not answer within the time it has to come up ({last})"),
            )
        })?;
        self.lead_to(record, target).await;
        Ok(())
    }

    /// Resolves when the instance no longer runs; asks every second.
    async fn ended_early(&self, record: &VmRecord) -> String {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            match timeout(BACKEND_DEADLINE, self.backend.observe(record.instance())).await {
                Ok(Ok(Observation::Stopped { exit_code, out_of_memory, .. })) => {
                    return ended_at_once(exit_code, out_of_memory);
                }
                Ok(Ok(Observation::Absent)) => return "its instance disappeared".to_owned(),
                Ok(Ok(Observation::Broken { reason })) => return reason,
                Ok(Ok(Observation::Suspended)) => return "it was suspended".to_owned(),
                Ok(Ok(Observation::Running { .. }) | Err(_)) | Err(_) => {}
            }
        }
    }

    /// Writes down what the backend says, as long as it may say something.
    async fn pass_on(&self, mut words: mpsc::Receiver<String>) -> bool {
        let mut told = false;
        while let Some(said) = words.recv().await {
            self.phase(said).await;
            told = true;
        }
        told
    }

    async fn phase(&self, phase: impl Into<String>) {
        if let Err(error) = self.world.repository.set_phase(self.id, phase.into()).await {
            tracing::warn!(vm = %self.id, "{error}");
        }
        self.world.changed();
    }

    async fn end_operation(&self, code: ErrorCode, message: String, cause: Cause) {
        let written = self.world.repository.creation_failed(self.id, code, message, cause).await;
        if let Err(error) = written {
            tracing::error!(vm = %self.id, "{error}");
        }
    }

    /// Undoes what a failed creation did, the last step first, then gives back what it held and tells why.
    /// Only when that can't be done now is the owner told first, and undoing tried on.
    async fn undo_creation(
        &mut self,
        record: &VmRecord,
        begun: Vec<Step>,
        code: ErrorCode,
        message: String,
    ) {
        fail_point::reached(FailPoint::CreateFailed);
        for step in begun.into_iter().rev() {
            if let Err(error) = step.undo(self, record).await {
                tracing::warn!(vm = %self.id, "removing what was made of it: {error}; this is tried again");
                self.end_operation(code, message, Cause::LaunchFailed).await;
                return;
            }
        }
        fail_point::reached(FailPoint::CreateUndone);
        match self.world.repository.release_failed(self.id, code, message).await {
            Ok(()) => self.gone = true,
            // It is still being created, says its row: it is begun once more when that can be read.
            Err(error) => tracing::error!(vm = %self.id, "{error}"),
        }
    }

    pub(super) async fn remove_instance(&self, record: &VmRecord) -> Result<(), BackendError> {
        within(BACKEND_DEADLINE, self.backend.destroy(record.instance())).await
    }
}

fn ended_at_once(exit_code: Option<i64>, out_of_memory: bool) -> String {
    match (out_of_memory, exit_code) {
        (true, _) => "its instance ran out of memory while it came up".to_owned(),
        (false, Some(code)) => format!("its instance ended while it came up (exit code {code})"),
        (false, None) => "its instance ended while it came up".to_owned(),
    }
}
