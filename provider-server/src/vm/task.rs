//! One VM's task: the only writer of its state, and the only caller of the backend for it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use golem_vm_protocol::{ErrorCode, VmId};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::access::AccessPorts;
use super::policy::{Decision, Request, decide};
use super::readiness::ssh_answers;
use super::repository::VmRepository;
use super::{VmError, VmRecord, VmState};
use crate::backend::{Backend, BackendError, BackendKind, Observation};

/// How long one call to a backend may take, but for stopping, which has its grace on top.
const BACKEND_DEADLINE: Duration = Duration::from_secs(60);
/// How long a guest has to end by itself.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// The same for one that does harm meanwhile.
const HARSH_GRACE: Duration = Duration::from_secs(2);
/// How often an instance is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// What every VM's task works with.
pub struct World {
    /// Where VMs are kept.
    pub repository: Arc<dyn VmRepository>,
    /// What makes instances.
    pub backends: BTreeMap<BackendKind, Arc<dyn Backend>>,
    /// What leads to them.
    pub ports: Arc<dyn AccessPorts>,
    /// How long a VM may take to come up.
    pub launch_timeout: Duration,
    /// Counts the changes to any VM, for those who wait for one.
    pub changes: watch::Sender<u64>,
    /// Ends all tasks; what they are at is found again at the next start.
    pub shutdown: CancellationToken,
}

impl World {
    /// Tells those who wait that something has changed.
    pub(super) fn changed(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }
}

/// What a task is told.
pub(super) struct Command {
    pub(super) request: Request,
    /// Why, where it is the provider itself that wants a running VM stopped.
    pub(super) reason: Option<String>,
    pub(super) reply: oneshot::Sender<Result<Option<VmRecord>, VmError>>,
}

/// How a task is reached.
#[derive(Clone)]
pub(super) struct TaskHandle {
    pub(super) commands: mpsc::Sender<Command>,
    /// Cuts a creation short, so that a destroy need not wait for it.
    pub(super) abandon: CancellationToken,
}

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

pub(super) struct Task {
    id: VmId,
    world: Arc<World>,
    backend: Arc<dyn Backend>,
    commands: mpsc::Receiver<Command>,
    abandon: CancellationToken,
    /// Where the instance was last seen.
    target: Option<SocketAddr>,
    /// Whether the backend could not be asked the last time.
    backend_was_away: bool,
    gone: bool,
}

impl Task {
    /// Starts the task of a VM that is in the repository; it takes up whatever its state says.
    pub(super) fn spawn(
        world: &Arc<World>,
        record: &VmRecord,
        on_end: impl FnOnce() + Send + 'static,
    ) -> Result<TaskHandle, VmError> {
        let kind = record.terms.backend;
        let backend = world.backends.get(&kind).ok_or_else(|| {
            VmError::Internal(format!(
                "VM {} was made by the backend {kind}, which is not running here",
                record.id
            ))
        })?;
        let (sender, commands) = mpsc::channel(16);
        let abandon = CancellationToken::new();
        let task = Self {
            id: record.id,
            world: Arc::clone(world),
            backend: Arc::clone(backend),
            commands,
            abandon: abandon.clone(),
            target: None,
            backend_was_away: false,
            gone: false,
        };
        let record = record.clone();
        tokio::spawn(async move {
            task.run(record).await;
            on_end();
        });
        Ok(TaskHandle { commands: sender, abandon })
    }

    async fn run(mut self, record: VmRecord) {
        let shutdown = self.world.shutdown.clone();
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = self.take_up(record) => {}
        }
        let mut look = interval(LOOK_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        look.reset();
        while !self.gone {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                command = self.commands.recv() => match command {
                    // A request that has begun is carried to its end even if the program is asked
                    // to stop: each is bounded, and half-done is worse.
                    Some(command) => self.obey(command).await,
                    None => return,
                },
                _ = look.tick() => self.look().await,
            }
        }
    }

    /// Takes up what an earlier run of the program, or the admission, left to be done.
    async fn take_up(&mut self, record: VmRecord) {
        let outcome = match record.state {
            VmState::Creating => {
                self.create(record).await;
                Ok(None)
            }
            VmState::Starting => self.start(record).await,
            VmState::Stopping => self.stop(record, None).await,
            VmState::Destroying => self.destroy(record).await,
            VmState::Failed { .. } => {
                self.gone = true;
                Ok(None)
            }
            VmState::Running => {
                // Whatever stopped it while nobody looked: it was meant to run.
                self.backend_was_away = true;
                self.look().await;
                Ok(None)
            }
            VmState::Stopped { .. } | VmState::Error { .. } => {
                self.look().await;
                Ok(None)
            }
        };
        if let Err(error) = outcome {
            tracing::warn!(vm = %self.id, "taking up the VM's last request: {error}");
        }
    }

    async fn obey(&mut self, command: Command) {
        let outcome = match command.reason {
            Some(reason) => self.stop_because(reason).await,
            None => self.carry_out(command.request).await,
        };
        if let Err(error) = &outcome {
            tracing::warn!(vm = %self.id, request = ?command.request, "{error}");
        }
        self.world.changed();
        // The caller may have gone; what it asked for is done all the same.
        let _ = command.reply.send(outcome);
    }

    /// Stops the VM if it runs; its owner is told why.
    async fn stop_because(&mut self, reason: String) -> Result<Option<VmRecord>, VmError> {
        let record = self.record().await?;
        if record.state != VmState::Running {
            return Ok(Some(record));
        }
        tracing::warn!(vm = %self.id, name = %record.name, "stopping it: {reason}");
        self.stop(record, Some(reason)).await
    }

    async fn carry_out(&mut self, request: Request) -> Result<Option<VmRecord>, VmError> {
        let record = self.record().await?;
        match decide(&record.state, request) {
            Decision::Ignore => return Ok(Some(record)),
            Decision::Gone => return Err(VmError::NotFound(record.name.to_string())),
            Decision::Refuse(reason) => {
                return Err(VmError::Conflict {
                    name: record.name.to_string(),
                    reason: reason.to_owned(),
                });
            }
            Decision::Accept => {}
        }
        match request {
            Request::Start => self.start(record).await,
            Request::Stop => self.stop(record, None).await,
            Request::Restart => {
                let stopped = self.stop(record, None).await?;
                match stopped {
                    Some(record) => self.start(record).await,
                    None => Ok(None),
                }
            }
            Request::Destroy => self.destroy(record).await,
            Request::Authorize => self.authorize(record).await,
        }
    }

    /// Makes the instance go by the SSH keys that are written down.
    async fn authorize(&mut self, record: VmRecord) -> Result<Option<VmRecord>, VmError> {
        if !record.keys_pending {
            return Ok(Some(record));
        }
        let keys = &record.authorized_keys;
        within(BACKEND_DEADLINE, self.backend.authorize(record.instance(), keys)).await?;
        let now = self.world.repository.keys_applied(self.id, record.authorized_keys).await?;
        tracing::info!(vm = %self.id, keys = now.authorized_keys.len(), "its SSH keys were changed");
        Ok(Some(now))
    }

    async fn record(&self) -> Result<VmRecord, VmError> {
        let record = self.world.repository.get(self.id).await?;
        record.ok_or_else(|| VmError::NotFound(self.id.to_string()))
    }

    // ---- creating ----------------------------------------------------------------------------

    async fn create(&mut self, record: VmRecord) {
        let abandon = self.abandon.clone();
        let shutdown = self.world.shutdown.clone();
        let deadline = Instant::now() + self.world.launch_timeout;
        let outcome = tokio::select! {
            biased;
            () = shutdown.cancelled() => Err(CreationEnd::Interrupted),
            result = self.bring_into_being(&record, &abandon, deadline) => result,
        };
        let outcome = match outcome {
            Ok(()) => {
                let written = self.world.repository.created(self.id).await;
                written.map_err(|error| CreationEnd::Failed(ErrorCode::Internal, error.to_string()))
            }
            Err(end) => Err(end),
        };
        match outcome {
            Ok(record) => {
                tracing::info!(vm = %self.id, name = %record.name, port = record.ssh_port, "VM runs")
            }
            Err(CreationEnd::Interrupted) => {}
            // The destroy that cut it short waits in the queue and does the rest.
            Err(CreationEnd::Abandoned) => {
                self.end_operation(
                    ErrorCode::CreateFailed,
                    "it was destroyed while it was being created".to_owned(),
                )
                .await;
            }
            Err(CreationEnd::Failed(code, message)) => {
                tracing::warn!(vm = %self.id, %code, "VM could not be created: {message}");
                self.undo_creation(&record, code, message).await;
            }
        }
        self.world.changed();
    }

    /// A call to the backend is never cut short by a destroy: what it makes would appear after
    /// the destroy has found nothing to remove. Only the waiting in between is.
    async fn bring_into_being(
        &mut self,
        record: &VmRecord,
        abandon: &CancellationToken,
        deadline: Instant,
    ) -> Result<(), CreationEnd> {
        let backend = Arc::clone(&self.backend);
        self.phase("creating the instance").await;
        deadlined(deadline, backend.ensure(&record.instance_spec())).await?;
        if abandon.is_cancelled() {
            return Err(CreationEnd::Abandoned);
        }
        self.phase("starting it").await;
        deadlined(deadline, backend.start(record.instance())).await?;
        self.phase("waiting for SSH").await;
        tokio::select! {
            biased;
            () = abandon.cancelled() => Err(CreationEnd::Abandoned),
            connected = self.connect(record, deadline) => Ok(connected?),
        }
    }

    /// Finds the running instance, leads the VM's port to it, and waits until SSH answers.
    async fn connect(
        &mut self,
        record: &VmRecord,
        deadline: Instant,
    ) -> Result<(), (ErrorCode, String)> {
        let backend = Arc::clone(&self.backend);
        let target = match deadlined(deadline, backend.observe(record.instance())).await? {
            Observation::Running { ssh } => ssh,
            Observation::Stopped { exit_code, out_of_memory } => {
                return Err((ErrorCode::CreateFailed, ended_at_once(exit_code, out_of_memory)));
            }
            Observation::Absent => {
                return Err((
                    ErrorCode::CreateFailed,
                    "its instance disappeared while it started".to_owned(),
                ));
            }
            Observation::Broken { reason } => return Err((ErrorCode::CreateFailed, reason)),
        };
        let readiness = tokio::select! {
            // One that is cut off can't answer anybody.
            ready = ssh_answers(target, deadline), if record.quarantined_at.is_none() => ready,
            ended = self.ended_early(record), if record.quarantined_at.is_none() => Err(ended),
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
                Ok(Ok(Observation::Stopped { exit_code, out_of_memory })) => {
                    return ended_at_once(exit_code, out_of_memory);
                }
                Ok(Ok(Observation::Absent)) => return "its instance disappeared".to_owned(),
                Ok(Ok(Observation::Broken { reason })) => return reason,
                Ok(Ok(Observation::Running { .. }) | Err(_)) | Err(_) => {}
            }
        }
    }

    async fn lead_to(&mut self, record: &VmRecord, target: SocketAddr) {
        if let Err(error) = self.world.ports.route(record.ssh_port, self.id, target).await {
            // The route is remembered, and told to the forwarder when it is back.
            tracing::warn!(vm = %self.id, port = record.ssh_port, "{error}");
        }
        self.target = Some(target);
    }

    async fn lead_nowhere(&mut self, record: &VmRecord) {
        if let Err(error) = self.world.ports.unroute(record.ssh_port).await {
            tracing::warn!(vm = %self.id, port = record.ssh_port, "{error}");
        }
        self.target = None;
    }

    async fn phase(&self, phase: &'static str) {
        if let Err(error) = self.world.repository.set_phase(self.id, phase).await {
            tracing::warn!(vm = %self.id, "{error}");
        }
        self.world.changed();
    }

    async fn end_operation(&self, code: ErrorCode, message: String) {
        if let Err(error) = self.world.repository.creation_failed(self.id, code, message).await {
            tracing::error!(vm = %self.id, "{error}");
        }
    }

    /// Removes what a failed creation made, then gives back what it held and tells why. Only when
    /// the instance can't be removed now is the owner told first, and removing tried on.
    async fn undo_creation(&mut self, record: &VmRecord, code: ErrorCode, message: String) {
        self.lead_nowhere(record).await;
        match self.remove_instance(record).await {
            Ok(()) => {
                if let Err(error) =
                    self.world.repository.release_failed(self.id, code, message).await
                {
                    tracing::error!(vm = %self.id, "{error}");
                }
                self.gone = true;
            }
            Err(error) => {
                tracing::warn!(vm = %self.id, "removing what was made of it: {error}; this is tried again");
                self.end_operation(code, message).await;
            }
        }
    }

    // ---- requests ----------------------------------------------------------------------------

    async fn start(&mut self, record: VmRecord) -> Result<Option<VmRecord>, VmError> {
        let before = record.state.clone();
        let record = self.world.repository.set_state(self.id, VmState::Starting).await?;
        self.world.changed();
        if let Err(error) = self.authorize(record.clone()).await {
            // A guest that has spoilt its own files still starts; this is tried again then.
            tracing::warn!(vm = %self.id, "its SSH keys could not be changed: {error}");
        }
        let deadline = Instant::now() + self.world.launch_timeout;
        let backend = Arc::clone(&self.backend);
        let outcome = match deadlined(deadline, backend.start(record.instance())).await {
            Ok(()) => self.connect(&record, deadline).await,
            Err(failure) => Err(failure),
        };
        match outcome {
            Ok(()) => {
                let record = self.world.repository.set_state(self.id, VmState::Running).await?;
                Ok(Some(record))
            }
            Err((ErrorCode::BackendUnavailable, reason)) => {
                // Nothing is known to have changed; a VM that was meant to run is tried again.
                let state = if before == VmState::Starting { VmState::STOPPED } else { before };
                self.world.repository.set_state(self.id, state).await?;
                Err(BackendError::Unavailable(reason).into())
            }
            Err((_, reason)) => {
                let message =
                    format!("it did not start: {reason}. Try 'start' again, or destroy it.");
                self.lead_nowhere(&record).await;
                self.world
                    .repository
                    .set_state(self.id, VmState::Error { message: message.clone() })
                    .await?;
                Err(BackendError::Failed(format!("VM {} {message}", record.name)).into())
            }
        }
    }

    /// `reason` is why, where it is not its owner who wants it.
    async fn stop(
        &mut self,
        record: VmRecord,
        reason: Option<String>,
    ) -> Result<Option<VmRecord>, VmError> {
        let before = record.state.clone();
        let record = self.world.repository.set_state(self.id, VmState::Stopping).await?;
        self.world.changed();
        let backend = Arc::clone(&self.backend);
        let grace = if reason.is_some() { HARSH_GRACE } else { STOP_GRACE };
        let stopping = backend.stop(record.instance(), grace);
        match within(BACKEND_DEADLINE + grace, stopping).await {
            Ok(()) => {
                self.lead_nowhere(&record).await;
                let state = VmState::Stopped { reason };
                let record = self.world.repository.set_state(self.id, state).await?;
                Ok(Some(record))
            }
            Err(error) => {
                let state = match (&error, before) {
                    (BackendError::NoInstance(_), _) => instance_is_gone(),
                    // What is half-way down is looked at until it is known how it ended.
                    (_, VmState::Stopping) => {
                        VmState::Error { message: format!("it could not be stopped: {error}") }
                    }
                    (_, before) => before,
                };
                self.world.repository.set_state(self.id, state).await?;
                Err(error.into())
            }
        }
    }

    async fn destroy(&mut self, record: VmRecord) -> Result<Option<VmRecord>, VmError> {
        if record.state != VmState::Destroying {
            self.world.repository.set_state(self.id, VmState::Destroying).await?;
            self.world.changed();
        }
        self.lead_nowhere(&record).await;
        self.remove_instance(&record).await?;
        self.world.repository.remove(self.id).await?;
        self.gone = true;
        tracing::info!(vm = %self.id, name = %record.name, "VM destroyed");
        Ok(None)
    }

    async fn remove_instance(&self, record: &VmRecord) -> Result<(), BackendError> {
        within(BACKEND_DEADLINE, self.backend.destroy(record.instance())).await
    }

    // ---- looking -----------------------------------------------------------------------------

    /// Compares the instance with the VM's state. Only an answer changes anything.
    async fn look(&mut self) {
        let Ok(record) = self.record().await else { return };
        if record.state == VmState::Destroying {
            if let Err(error) = self.destroy(record).await {
                tracing::warn!(vm = %self.id, "destroying it: {error}; this is tried again");
            }
            self.world.changed();
            return;
        }
        let observed = within(BACKEND_DEADLINE, self.backend.observe(record.instance())).await;
        let observation = match observed {
            Ok(observation) => observation,
            Err(error) => {
                if !self.backend_was_away {
                    tracing::warn!(vm = %self.id, "looking at it: {error}");
                }
                self.backend_was_away = true;
                return;
            }
        };
        let was_away = std::mem::take(&mut self.backend_was_away);
        if let Err(error) = self.match_state(record, observation, was_away).await {
            tracing::warn!(vm = %self.id, "{error}");
        }
    }

    async fn match_state(
        &mut self,
        record: VmRecord,
        seen: Observation,
        was_away: bool,
    ) -> Result<(), VmError> {
        let next = match (&record.state, seen) {
            (VmState::Running, Observation::Running { ssh }) => {
                if self.target != Some(ssh) {
                    self.lead_to(&record, ssh).await;
                }
                return self.authorize(record).await.map(|_| ());
            }
            (VmState::Stopped { .. } | VmState::Error { .. }, Observation::Running { ssh }) => {
                self.lead_to(&record, ssh).await;
                VmState::Running
            }
            // The engine was away and took the VM down with it: it was meant to run.
            (VmState::Running, Observation::Stopped { .. }) if was_away => {
                tracing::info!(vm = %self.id, "its instance was stopped from outside: starting it again");
                return self.start(record).await.map(|_| ());
            }
            (VmState::Running | VmState::Error { .. }, Observation::Stopped { .. }) => {
                self.lead_nowhere(&record).await;
                VmState::STOPPED
            }
            (VmState::Running | VmState::Stopped { .. }, Observation::Absent) => {
                self.lead_nowhere(&record).await;
                instance_is_gone()
            }
            (VmState::Running | VmState::Stopped { .. }, Observation::Broken { reason }) => {
                VmState::Error { message: reason }
            }
            _ => return Ok(()),
        };
        tracing::info!(vm = %self.id, from = record.state.as_str(), to = next.as_str(), "state follows the instance");
        self.world.repository.set_state(self.id, next).await?;
        self.world.changed();
        Ok(())
    }
}

fn instance_is_gone() -> VmState {
    VmState::Error {
        message: "its instance is gone from the backend, and its disk with it: destroy this VM and create a new one"
            .to_owned(),
    }
}

fn ended_at_once(exit_code: Option<i64>, out_of_memory: bool) -> String {
    match (out_of_memory, exit_code) {
        (true, _) => "its instance ran out of memory while it came up".to_owned(),
        (false, Some(code)) => format!("its instance ended while it came up (exit code {code})"),
        (false, None) => "its instance ended while it came up".to_owned(),
    }
}

/// A backend call that has to end in time; an answer that does not come is "could not ask".
async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, BackendError>>,
) -> Result<T, BackendError> {
    match timeout(limit, call).await {
        Ok(result) => result,
        Err(_) => Err(BackendError::Unavailable(format!(
            "the backend did not answer within {} seconds",
            limit.as_secs()
        ))),
    }
}

/// A backend call on the way to a running VM, with the code that its failure has for the owner.
async fn deadlined<T>(
    deadline: Instant,
    call: impl Future<Output = Result<T, BackendError>>,
) -> Result<T, (ErrorCode, String)> {
    let limit = deadline.saturating_duration_since(Instant::now()).min(BACKEND_DEADLINE);
    within(limit, call).await.map_err(|error| {
        let code = match &error {
            BackendError::Unavailable(_) => ErrorCode::BackendUnavailable,
            BackendError::ImageMissing(_) => ErrorCode::ImageNotOffered,
            BackendError::NoInstance(_) | BackendError::Failed(_) => ErrorCode::CreateFailed,
        };
        (code, error.to_string())
    })
}
