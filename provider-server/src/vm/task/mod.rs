//! One VM's task: the only writer of its state, and the only caller of the backend for it.
//!
//! Its orders come from three sides: requests, the passing of time, and what is seen of its instance.
//! They are carried out one after another; each writes what is meant before it touches the backend, so
//! that whoever takes the VM up after a crash reads in its state what is left to be done.
//!
//! * [`creation`] brings a VM into being, in steps that each know how to undo themselves.
//! * [`life`] suspends it, makes snapshots of it, resizes it, and lends its disk to a clone.
//! * [`power`] brings it up and down, and removes it.
//! * [`term`] does what its lease asks for.
//! * [`reconcile`] compares it with its instance.

mod creation;
mod life;
mod power;
mod reconcile;
mod term;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use golem_vm_protocol::vm::{Ability, Actor, Cause, EventKind, SnapshotName};
use golem_vm_protocol::{ErrorCode, VmId, VmResources};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::access::AccessPorts;
use super::history::{Occurrence, Reason, Transition};
use super::lease::next_due;
use super::policy::{Decision, Request, decide};
use super::repository::VmRepository;
use super::snapshot::SnapshotWanted;
use super::survey::Survey;
use super::{VmError, VmManager, VmRecord, VmState};
use crate::backend::{Backend, BackendError, Backends, InstanceSpec};
use crate::capacity::Amount;
use crate::fail_point::{self, FailPoint};
use crate::steady::{SteadyClock, SteadyTime};

/// How long one call to a backend may take, but for stopping, which has its grace on top.
const BACKEND_DEADLINE: Duration = Duration::from_secs(60);
/// How often it is looked whether something is due.
const TERM_LOOK: Duration = Duration::from_millis(500);

/// What every VM's task works with.
pub struct World {
    /// Where VMs are kept.
    pub repository: Arc<dyn VmRepository>,
    /// What makes instances.
    pub backends: Backends,
    /// What leads to them.
    pub ports: Arc<dyn AccessPorts>,
    /// How long a VM may take to come up.
    pub launch_timeout: Duration,
    /// The clock of leases.
    pub steady: Arc<dyn SteadyClock>,
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

    /// Whether the backend that made a VM can do this with it.
    ///
    /// # Errors
    /// [`VmError::NotSupported`], which says `what` it can't.
    pub(super) fn check_ability(
        &self,
        record: &VmRecord,
        ability: Ability,
        what: &'static str,
    ) -> Result<(), VmError> {
        let backend = record.terms.backend;
        if self.backends.of(backend)?.found.now().abilities.contains(&ability) {
            return Ok(());
        }
        Err(VmError::NotSupported { name: record.name.to_string(), backend, what })
    }
}

/// What a task is told to do.
#[derive(Debug)]
pub(super) enum Order {
    /// What somebody asks for who has a right to it.
    Request(Request, Actor),
    /// To stop the VM if it runs, and why; the reason becomes part of its state.
    StopBecause(Reason),
    /// To make its lease end at this moment, if it ends earlier.
    Extend(SteadyTime),
    /// To have it back for so long, if the offer has room.
    Undelete(Duration, Amount),
    /// To keep its memory on its disk, if the offer has room, and end it.
    Suspend(Amount, Actor),
    /// To make a snapshot, if the offer has room.
    Snapshot(SnapshotWanted, Amount),
    /// To delete a snapshot.
    RemoveSnapshot(SnapshotName),
    /// To go back to a snapshot.
    Restore(SnapshotName),
    /// To be of another size, if the offer has room.
    Resize(VmResources, Amount),
    /// To let an instance begin with its disk.
    Lend(Box<InstanceSpec>),
}

impl Order {
    fn request(&self) -> Request {
        match self {
            Self::Request(request, _) => *request,
            Self::StopBecause(_) => Request::Stop,
            Self::Extend(_) => Request::Extend,
            Self::Undelete(..) => Request::Undelete,
            Self::Suspend(..) => Request::Suspend,
            Self::Snapshot(..) => Request::Snapshot,
            Self::RemoveSnapshot(_) => Request::RemoveSnapshot,
            Self::Restore(_) => Request::Restore,
            Self::Resize(..) => Request::Resize,
            Self::Lend(_) => Request::Clone,
        }
    }
}

/// An order, and where its outcome goes.
pub(super) struct Command {
    pub(super) order: Order,
    pub(super) reply: oneshot::Sender<Result<Option<VmRecord>, VmError>>,
}

/// How a task is reached.
#[derive(Clone)]
pub(super) struct TaskHandle {
    pub(super) commands: mpsc::Sender<Command>,
    /// Cuts a creation short, so that a destroy need not wait for it.
    pub(super) abandon: CancellationToken,
}

pub(super) struct Task {
    id: VmId,
    world: Arc<World>,
    /// For what concerns another VM, too.
    manager: VmManager,
    backend: Arc<dyn Backend>,
    commands: mpsc::Receiver<Command>,
    surveys: watch::Receiver<Survey>,
    abandon: CancellationToken,
    /// Where the instance was last seen.
    target: Option<SocketAddr>,
    /// Whether the backend could not be asked the last time.
    backend_was_away: bool,
    /// How often the backend had gone away when it was last looked at.
    interruptions: u64,
    /// When the instance was seen to have ended by itself, if nothing was asked for since.
    ended_by_itself: Option<Instant>,
    /// Whether that was the engine, which takes its instances down first when it is stopped.
    taken_down: bool,
    /// When this task last changed something about its instance: what was seen before says nothing now.
    acted: Instant,
    /// When time next asks for something.
    due: Option<SteadyTime>,
    /// Whether all that is written down of its snapshots is whole.
    is_settled: bool,
    gone: bool,
}

impl Task {
    /// Starts the task of a VM that is in the repository; it takes up whatever its state says.
    pub(super) fn spawn(
        world: &Arc<World>,
        manager: VmManager,
        record: &VmRecord,
        surveys: watch::Receiver<Survey>,
        on_end: impl FnOnce() + Send + 'static,
    ) -> Result<TaskHandle, VmError> {
        // Who asks for something of a VM whose backend is away learns why it is.
        let backend = world.backends.of(record.terms.backend)?.backend;
        let (sender, commands) = mpsc::channel(16);
        let abandon = CancellationToken::new();
        let task = Self {
            id: record.id,
            world: Arc::clone(world),
            manager,
            backend,
            commands,
            surveys,
            abandon: abandon.clone(),
            target: None,
            // Whatever stopped it while nobody looked: it was meant to run.
            backend_was_away: record.state == VmState::Running,
            interruptions: 0,
            ended_by_itself: None,
            taken_down: false,
            acted: Instant::now(),
            due: None,
            is_settled: false,
            gone: false,
        };
        let record = record.clone();
        tokio::spawn(async move {
            Box::pin(task.run(record)).await;
            on_end();
        });
        Ok(TaskHandle { commands: sender, abandon })
    }

    async fn run(mut self, record: VmRecord) {
        let shutdown = self.world.shutdown.clone();
        self.due = next_due(&record.state, &record.lease).map(|(moment, _)| moment);
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = self.take_up(record) => {}
        }
        // What was seen before this task began may be seen once more.
        self.surveys.mark_changed();
        let mut clock = interval(TERM_LOOK);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
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
                changed = self.surveys.changed() => match changed {
                    Ok(()) => self.see().await,
                    Err(_) => return,
                },
                _ = clock.tick() => self.look_at_the_clock().await,
            }
        }
    }

    /// Takes up what the admission, or an earlier run of the program, left to be done.
    async fn take_up(&mut self, record: VmRecord) {
        if let VmState::Failed { .. } = record.state {
            self.gone = true;
            return;
        }
        if let Err(error) = self.carry_on(record).await {
            tracing::warn!(vm = %self.id, "taking up the VM's last request: {error}");
        }
        self.world.changed();
    }

    /// Does what the state says is being done. What stands still is left alone.
    async fn carry_on(&mut self, record: VmRecord) -> Result<Option<VmRecord>, VmError> {
        match record.state {
            VmState::Creating => {
                self.create(record).await;
                Ok(None)
            }
            VmState::Starting => self.start(record, Reason::own(Cause::Recovered)).await,
            VmState::Stopping { .. } => self.stop_as_meant(record).await,
            VmState::Suspending => self.suspend_as_meant(record).await,
            VmState::Destroying => self.destroy(record, Reason::own(Cause::Recovered)).await,
            _ => Ok(Some(record)),
        }
    }

    async fn obey(&mut self, command: Command) {
        let Command { order, reply } = command;
        let request = order.request();
        (self.ended_by_itself, self.taken_down) = (None, false);
        let outcome = self.carry_out(order).await;
        if let Err(error) = &outcome {
            tracing::warn!(vm = %self.id, ?request, "{error}");
        }
        self.world.changed();
        // The caller may have gone; what it asked for is done all the same.
        let _ = reply.send(outcome);
    }

    async fn carry_out(&mut self, order: Order) -> Result<Option<VmRecord>, VmError> {
        let record = self.record().await?;
        self.check_ability(&order, &record)?;
        match decide(&record.state, order.request()) {
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
        let by = |actor| Reason::new(actor, Cause::Requested);
        match order {
            Order::Request(Request::Start | Request::Resume, actor) => {
                self.start(record, by(actor)).await
            }
            Order::Request(Request::Stop, actor) => self.stop(record, by(actor)).await,
            Order::Request(Request::Restart, actor) => self.restart(record, by(actor)).await,
            Order::Request(Request::Destroy, actor) => self.destroy(record, by(actor)).await,
            Order::Request(Request::Retain, actor) => {
                let reason = by(actor).with("its owner gave it up, and it is kept for a while");
                self.retain(record, reason).await
            }
            Order::Request(Request::Authorize, _) => self.authorize(record).await,
            // They come with what they need.
            Order::Request(
                Request::Extend
                | Request::Undelete
                | Request::Suspend
                | Request::Snapshot
                | Request::RemoveSnapshot
                | Request::Restore
                | Request::Resize
                | Request::Clone,
                _,
            ) => Ok(Some(record)),
            Order::StopBecause(reason) => self.stop_because(record, reason).await,
            Order::Extend(until) => self.extend(until).await.map(Some),
            Order::Undelete(lasting, offered) => self.undelete(lasting, offered).await.map(Some),
            Order::Suspend(offered, actor) => self.suspend(offered, by(actor)).await,
            Order::Snapshot(wanted, offered) => self.snapshot(record, wanted, offered).await,
            Order::RemoveSnapshot(name) => {
                let reason = Reason::new(Actor::Requestor, Cause::SnapshotDeleted);
                self.remove_snapshot(record, name, reason).await
            }
            Order::Restore(name) => self.restore(record, name, by(Actor::Requestor)).await,
            Order::Resize(size, offered) => self.resize(size, offered).await,
            Order::Lend(spec) => self.lend(record, &spec).await,
        }
    }

    /// Makes the instance go by the SSH keys that are written down.
    async fn authorize(&mut self, record: VmRecord) -> Result<Option<VmRecord>, VmError> {
        if !record.keys_pending {
            return Ok(Some(record));
        }
        let keys = &record.authorized_keys;
        within(BACKEND_DEADLINE, self.backend.authorize(record.instance(), keys)).await?;
        fail_point::reached(FailPoint::KeysApplied);
        let now = self.world.repository.keys_applied(self.id, record.authorized_keys).await?;
        tracing::info!(vm = %self.id, keys = now.authorized_keys.len(), "its SSH keys were changed");
        Ok(Some(now))
    }

    async fn record(&self) -> Result<VmRecord, VmError> {
        let record = self.world.repository.get(self.id).await?;
        record.ok_or_else(|| VmError::NotFound(self.id.to_string()))
    }

    /// Writes the VM's new state, and what time asks for then.
    async fn pass_to(&mut self, to: VmState, reason: Reason) -> Result<VmRecord, VmError> {
        let change = Transition { to, reason };
        let record = self.world.repository.transition(self.id, change).await?;
        self.passed(&record);
        Ok(record)
    }

    /// Its new state is written: this is what it is.
    fn passed(&mut self, record: &VmRecord) {
        self.acted = Instant::now();
        self.expect_due(record);
        self.world.changed();
    }

    /// Writes something down that its owner may want to know.
    async fn note(&self, reason: Reason) {
        let note = Occurrence { kind: EventKind::Note, reason };
        if let Err(error) = self.world.repository.occurred(self.id, note).await {
            tracing::warn!(vm = %self.id, "{error}");
        }
    }

    fn expect_due(&mut self, record: &VmRecord) {
        self.due = next_due(&record.state, &record.lease).map(|(moment, _)| moment);
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
}

fn instance_is_gone() -> VmState {
    VmState::Error {
        message: "its instance is gone from the backend, and its disk with it: destroy this VM and create a new one"
            .to_owned(),
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
    within(time_left(deadline, BACKEND_DEADLINE), call).await.map_err(failure_code)
}

/// What is left until `deadline`, and no more than a call may take.
fn time_left(deadline: Instant, longest: Duration) -> Duration {
    deadline.saturating_duration_since(Instant::now()).min(longest)
}

/// A backend's failure on the way to a running VM, with the code that it has for the owner.
fn failure_code(error: BackendError) -> (ErrorCode, String) {
    let code = match &error {
        BackendError::Unavailable(_) => ErrorCode::BackendUnavailable,
        BackendError::ImageMissing(_) => ErrorCode::ImageNotOffered,
        BackendError::NoInstance(_)
        | BackendError::NoSnapshot(_)
        | BackendError::MemoryLost(_)
        | BackendError::Failed(_) => ErrorCode::CreateFailed,
    };
    (code, error.to_string())
}
