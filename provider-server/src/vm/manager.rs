//! Takes requests about VMs, and hands each to the task of its VM.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use golem_vm_protocol::time::Timestamp;
use golem_vm_protocol::vm::{Actor, Cause, OperationStatus, Owner, ValidCreate, ValidKeyChange};
use golem_vm_protocol::{ErrorCode, VmId, VmRef};
use tokio::sync::{oneshot, watch};

use super::admission::{Admission, Bounds, Idempotency, NewVm, RepeatedRequest};
use super::console::Consoles;
use super::history::{EventRecord, Reason};
use super::host_key::HostKey;
use super::lease::{Lease, LeaseGrant};
use super::policy::Request;
use super::record::{Terms, UserData, VmRecord};
use super::survey::{self, Survey};
use super::task::{Command, Order, Task, TaskHandle, World};
use super::{OperationRecord, VmError, VmState};
use crate::backend::{Backend, BackendError, BackendKind, Member, Usage};
use crate::capacity::Amount;
use crate::fail_point::{self, FailPoint};
use crate::steady::{SteadyTime, WallView};

/// The table of VMs' tasks. Cheap to clone.
#[derive(Clone)]
pub struct VmManager {
    world: Arc<World>,
    // A plain mutex: held for a look-up or an insert, never across an await.
    tasks: Arc<Mutex<HashMap<VmId, TaskHandle>>>,
    surveys: Arc<BTreeMap<BackendKind, watch::Sender<Survey>>>,
    pub(super) consoles: Consoles,
    wall: Arc<WallView>,
}

impl fmt::Debug for VmManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VmManager").finish_non_exhaustive()
    }
}

/// A create that passed all checks that need no ledger.
#[derive(Debug, Clone)]
pub struct Creation {
    /// Whose VM it will be.
    pub owner: Owner,
    /// What was asked for.
    pub request: ValidCreate,
    /// On which terms.
    pub terms: Terms,
    /// For how long.
    pub lease: LeaseGrant,
    /// Within which bounds.
    pub bounds: Bounds,
    /// The VM with whose disk it begins, if it is a clone.
    pub clone_of: Option<VmId>,
    /// What makes it one request however often it is sent.
    pub idempotency: Option<Idempotency>,
}

impl VmManager {
    /// A manager without VMs; see [`VmManager::take_up_all`].
    #[must_use]
    pub fn new(world: Arc<World>) -> Self {
        let members = world.backends.now();
        let survey = |member: &Member| (member.kind, watch::Sender::new(Survey::none()));
        let surveys = Arc::new(members.iter().map(survey).collect());
        Self {
            world,
            tasks: Arc::default(),
            surveys,
            consoles: Consoles::default(),
            wall: Arc::default(),
        }
    }

    /// Starts a task for every VM in the repository whose backend is there, and begins to look at all
    /// instances. The others are told about and left as they are; see [`VmManager::take_up_of`].
    ///
    /// # Errors
    /// When the repository can't be read.
    pub async fn take_up_all(&self) -> Result<usize, VmError> {
        let records = self.world.repository.take_up().await?;
        let taken_up = self.begin(&records);
        for present in self.world.backends.there() {
            self.survey(present.backend);
        }
        Ok(taken_up)
    }

    /// Starts the tasks of the VMs of a backend that was away when all were taken up, and begins to look at
    /// its instances. Called once for each.
    ///
    /// # Errors
    /// When the repository can't be read.
    pub async fn take_up_of(&self, backend: Arc<dyn Backend>) -> Result<usize, VmError> {
        let mut records = self.world.repository.all().await?;
        records.retain(|record| {
            let is_over = matches!(record.state, VmState::Failed { .. });
            record.terms.backend == backend.kind() && !is_over
        });
        let taken_up = self.begin(&records);
        self.survey(backend);
        Ok(taken_up)
    }

    pub(super) fn world(&self) -> &World {
        &self.world
    }

    fn begin(&self, records: &[VmRecord]) -> usize {
        let mut left = BTreeMap::<String, usize>::new();
        for record in records {
            if let Err(error) = self.begin_task(record) {
                *left.entry(error.to_string()).or_default() += 1;
            }
        }
        for (reason, count) in &left {
            tracing::error!("{count} VMs are kept, but nothing can be done about them: {reason}");
        }
        records.len() - left.values().sum::<usize>()
    }

    fn survey(&self, backend: Arc<dyn Backend>) {
        if let Some(surveys) = self.surveys.get(&backend.kind()) {
            let token = self.world.shutdown.clone();
            tokio::spawn(survey::run(backend, surveys.clone(), token));
        }
    }

    fn begin_task(&self, record: &VmRecord) -> Result<TaskHandle, VmError> {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(handle) = tasks.get(&record.id).filter(|handle| !handle.commands.is_closed()) {
            return Ok(handle.clone());
        }
        let (id, table) = (record.id, Arc::clone(&self.tasks));
        let surveys = match self.surveys.get(&record.terms.backend) {
            Some(surveys) => surveys.subscribe(),
            None => watch::Sender::new(Survey::none()).subscribe(),
        };
        let handle = Task::spawn(&self.world, self.clone(), record, surveys, move || {
            table.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        })?;
        tasks.insert(id, handle.clone());
        Ok(handle)
    }

    /// The operation of a request that was made before, if any.
    ///
    /// # Errors
    /// [`VmError::IdempotencyMismatch`] when its key was used for something else.
    pub async fn repeated(
        &self,
        request: RepeatedRequest,
    ) -> Result<Option<OperationRecord>, VmError> {
        self.world.repository.repeated(request).await
    }

    /// Lets a VM in and begins to make it. Returns its operation.
    ///
    /// # Errors
    /// See [`super::repository::VmRepository::admit`].
    pub async fn create(
        &self,
        creation: Creation,
        now: Timestamp,
    ) -> Result<OperationRecord, VmError> {
        let random =
            |error: getrandom::Error| VmError::Internal(format!("no random bytes: {error}"));
        let record = VmRecord {
            id: VmId::random().map_err(random)?,
            owner: creation.owner,
            name: creation.request.name,
            state: VmState::Creating,
            terms: creation.terms,
            ssh_port: 0,
            host_key: HostKey::generate().map_err(VmError::Internal)?,
            authorized_keys: creation.request.ssh_keys,
            keys_pending: false,
            clone_of: creation.clone_of,
            user_data: creation.request.cloud_init.map(UserData),
            runs_with: None,
            resize_pending: false,
            suspend_gb: 0,
            lease: Lease::begin(creation.lease, self.world.steady.now()),
            operation: format!("op_{}", &VmId::random().map_err(random)?.to_string()[3..]),
            quarantined_at: None,
            created_at: now,
            updated_at: now,
        };
        let new = NewVm { record, idempotency: creation.idempotency };
        match self.world.repository.admit(new, creation.bounds).await? {
            Admission::Repeated(operation) => Ok(operation),
            Admission::Admitted(record) => {
                fail_point::reached(FailPoint::CreateAdmitted);
                self.begin_task(&record)?;
                self.world.changed();
                let operation =
                    self.world.repository.operation(record.owner, record.operation.clone()).await?;
                operation.ok_or(VmError::OperationNotFound)
            }
        }
    }

    /// Waits until an operation is over, and returns its VM.
    ///
    /// # Errors
    /// Why it failed; [`VmError::NotFound`] when the VM has been destroyed since.
    pub async fn wait_for(
        &self,
        owner: Owner,
        operation: OperationRecord,
    ) -> Result<VmRecord, VmError> {
        let mut changes = self.world.changes.subscribe();
        let mut operation = operation;
        loop {
            changes.mark_unchanged();
            let id = operation.id.clone();
            operation = self
                .world
                .repository
                .operation(owner, id)
                .await?
                .ok_or(VmError::OperationNotFound)?;
            match operation.status {
                OperationStatus::Creating | OperationStatus::Unknown => {}
                OperationStatus::Ready => {
                    let record = self.world.repository.get(operation.vm).await?;
                    return record.ok_or(VmError::NotFound(operation.vm_public_id));
                }
                OperationStatus::Failed => return Err(failure(operation)),
            }
            tokio::select! {
                () = self.world.shutdown.cancelled() => return Err(VmError::ShuttingDown),
                changed = changes.changed() => changed.map_err(|_| VmError::ShuttingDown)?,
            }
        }
    }

    /// Carries out a request about one of the owner's VMs, and returns the VM as it is then;
    /// `None` when it is gone.
    ///
    /// # Errors
    /// [`VmError::NotFound`] also for another owner's VM.
    pub async fn request(
        &self,
        owner: Owner,
        vm: VmRef,
        request: Request,
    ) -> Result<Option<VmRecord>, VmError> {
        let record = self.find(owner, vm).await?;
        self.request_for(&record, request, Actor::Requestor).await
    }

    /// As [`VmManager::request`], for a VM that was found already, by whoever has a right to it.
    ///
    /// # Errors
    /// As [`VmManager::request`].
    pub async fn request_for(
        &self,
        record: &VmRecord,
        request: Request,
        actor: Actor,
    ) -> Result<Option<VmRecord>, VmError> {
        if let VmState::Failed { .. } = record.state {
            let reason = Reason::new(actor, Cause::Requested);
            return match request {
                Request::Destroy => {
                    self.world.repository.remove(record.id, reason).await.map(|()| None)
                }
                _ => Err(VmError::NotFound(record.name.to_string())),
            };
        }
        self.tell(record, Order::Request(request, actor)).await
    }

    /// Stops a VM that runs, whoever owns it. What `reason` says becomes part of its state.
    ///
    /// # Errors
    /// When it is gone, or can't be stopped.
    pub async fn stop_because(&self, record: &VmRecord, reason: Reason) -> Result<(), VmError> {
        self.tell(record, Order::StopBecause(reason)).await.map(|_| ())
    }

    /// Makes the lease of one of the owner's VMs end at `until`, if it ends earlier.
    ///
    /// # Errors
    /// [`VmError::NotFound`]; [`VmError::Conflict`] when it has ended already.
    pub async fn extend(
        &self,
        owner: Owner,
        vm: VmRef,
        until: SteadyTime,
    ) -> Result<VmRecord, VmError> {
        let record = self.find(owner, vm).await?;
        let extended = self.tell(&record, Order::Extend(until)).await?;
        extended.ok_or_else(|| VmError::NotFound(record.name.to_string()))
    }

    /// Has one of the owner's VMs back that is only kept, for `lasting` from now. It is stopped then.
    /// Changes nothing about another.
    ///
    /// # Errors
    /// [`VmError::NotFound`]; [`VmError::InsufficientCapacity`] when `offered` has no room for it.
    pub async fn undelete(
        &self,
        owner: Owner,
        vm: VmRef,
        lasting: Duration,
        offered: Amount,
    ) -> Result<VmRecord, VmError> {
        let record = self.find(owner, vm).await?;
        let back = self.tell(&record, Order::Undelete(lasting, offered)).await?;
        back.ok_or_else(|| VmError::NotFound(record.name.to_string()))
    }

    /// What happened to one of the owner's VMs, there or gone, after the event with that number; the oldest
    /// first, at most `limit`.
    ///
    /// # Errors
    /// [`VmError::NotFound`] also for another owner's VM.
    pub async fn events(
        &self,
        owner: Owner,
        vm: VmRef,
        after: u64,
        limit: u32,
    ) -> Result<Vec<EventRecord>, VmError> {
        let text = vm.as_str().to_owned();
        let events = self.world.repository.events(owner, vm, after, limit).await?;
        events.ok_or(VmError::NotFound(text))
    }

    /// What happened to everybody's VMs, for the provider's owner: after the event with that id, or with
    /// `None` the last of them.
    ///
    /// # Errors
    /// When the repository can't be read.
    pub async fn all_events(
        &self,
        vm: Option<VmRef>,
        after: Option<i64>,
        limit: u32,
    ) -> Result<Vec<EventRecord>, VmError> {
        match after {
            Some(after) => self.world.repository.all_events(vm, after, limit).await,
            None => self.world.repository.last_events(vm, limit).await,
        }
    }

    /// This moment, by the clock of leases.
    pub(super) fn steady_now(&self) -> SteadyTime {
        self.world.steady.now()
    }

    /// This moment by the clock of leases, and what the wall clock shows at it, which was read as `wall`: with
    /// these two, a moment is always shown as the same.
    #[must_use]
    pub fn this_moment(&self, wall: Timestamp) -> (SteadyTime, Timestamp) {
        let now = self.world.steady.now();
        (now, self.wall.at(now, wall))
    }

    pub(super) async fn tell(
        &self,
        record: &VmRecord,
        order: Order,
    ) -> Result<Option<VmRecord>, VmError> {
        let handle = self.begin_task(record)?;
        let destroys = matches!(order, Order::Request(Request::Destroy, _));
        if destroys {
            handle.abandon.cancel();
        }
        let (reply, answer) = oneshot::channel();
        let gone = || VmError::NotFound(record.name.to_string());
        let sent = handle.commands.send(Command { order, reply }).await;
        match sent {
            Ok(()) => {}
            // It went in the same moment, for another reason.
            Err(_) if destroys => return Ok(None),
            Err(_) => return Err(gone()),
        }
        match answer.await {
            Ok(outcome) => outcome,
            Err(_) if self.world.shutdown.is_cancelled() => Err(VmError::ShuttingDown),
            Err(_) if destroys => Ok(None),
            Err(_) => Err(gone()),
        }
    }

    /// Changes which SSH keys may log in to one of the owner's VMs, and returns the VM as it is then.
    /// A running one goes by them at once, another when it starts next. What was written is kept
    /// and tried again also when the backend does not do it now.
    ///
    /// # Errors
    /// [`VmError::NotFound`], [`VmError::LastKey`], [`VmError::Invalid`]; [`VmError::Backend`] when
    /// the keys are written down but could not be applied.
    pub async fn change_keys(
        &self,
        owner: Owner,
        vm: VmRef,
        change: ValidKeyChange,
    ) -> Result<VmRecord, VmError> {
        let record = self.world.repository.change_keys(owner, vm, change).await?;
        fail_point::reached(FailPoint::KeysRecorded);
        let not_yet = |error: &dyn fmt::Display| {
            format!(
                "the keys are written down, but the VM does not go by them yet: {error}; this is tried again"
            )
        };
        match self.request_for(&record, Request::Authorize, Actor::Requestor).await {
            Ok(now) => now.ok_or_else(|| VmError::NotFound(record.name.to_string())),
            Err(VmError::Backend(BackendError::Unavailable(error))) => {
                Err(BackendError::Unavailable(not_yet(&error)).into())
            }
            Err(VmError::Backend(error)) => Err(BackendError::Failed(not_yet(&error)).into()),
            Err(error) => Err(error),
        }
    }

    /// One of the owner's VMs.
    ///
    /// # Errors
    /// [`VmError::NotFound`].
    pub async fn find(&self, owner: Owner, vm: VmRef) -> Result<VmRecord, VmError> {
        let text = vm.as_str().to_owned();
        self.world.repository.find(owner, vm).await?.ok_or(VmError::NotFound(text))
    }

    /// The owner's VMs.
    ///
    /// # Errors
    /// When the repository can't be read.
    pub async fn list(&self, owner: Owner) -> Result<Vec<VmRecord>, VmError> {
        self.world.repository.list(owner).await
    }

    /// Everybody's VMs, for the provider's owner.
    ///
    /// # Errors
    /// When the repository can't be read.
    pub async fn all(&self) -> Result<Vec<VmRecord>, VmError> {
        self.world.repository.all().await
    }

    /// One of the owner's operations.
    ///
    /// # Errors
    /// [`VmError::OperationNotFound`].
    pub async fn operation(&self, owner: Owner, id: String) -> Result<OperationRecord, VmError> {
        self.world.repository.operation(owner, id).await?.ok_or(VmError::OperationNotFound)
    }

    /// Where a running VM's sshd is, as seen from this host.
    pub async fn address(&self, record: &VmRecord) -> Option<std::net::SocketAddr> {
        let backend = self.world.backends.of(record.terms.backend).ok()?.backend;
        match backend.observe(record.instance()).await {
            Ok(crate::backend::Observation::Running { ssh }) => Some(ssh),
            _ => None,
        }
    }

    /// What a running VM uses now.
    ///
    /// # Errors
    /// [`VmError::Conflict`] when it does not run; a [`BackendError`] when it can't be measured.
    pub async fn usage(&self, record: &VmRecord) -> Result<Usage, VmError> {
        if record.state != VmState::Running {
            return Err(VmError::Conflict {
                name: record.name.to_string(),
                reason: format!(
                    "it is {}, and only a running VM uses anything",
                    record.state.as_str()
                ),
            });
        }
        let backend = self.world.backends.of(record.terms.backend)?.backend;
        let meter = backend.metering().ok_or_else(|| {
            VmError::Internal(format!("the backend {} does not measure", record.terms.backend))
        })?;
        let limit = std::time::Duration::from_secs(15);
        match tokio::time::timeout(limit, meter.usage(record.instance())).await {
            Ok(usage) => Ok(usage?),
            Err(_) => Err(BackendError::Unavailable(
                "the backend did not answer within 15 seconds".to_owned(),
            )
            .into()),
        }
    }

    /// Rises whenever a VM changes.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.world.changes.subscribe()
    }
}

/// What a failed operation says to whoever waits for it.
fn failure(operation: OperationRecord) -> VmError {
    let (code, reason) = operation
        .failure
        .unwrap_or_else(|| (ErrorCode::CreateFailed, "no reason was recorded".to_owned()));
    match code {
        ErrorCode::BackendUnavailable => BackendError::Unavailable(reason).into(),
        code => VmError::CreateFailed { code, name: operation.vm_public_id, reason },
    }
}
