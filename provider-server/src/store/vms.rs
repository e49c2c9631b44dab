//! The SQL of VMs and their ports, and the ledger that follows from them.

use std::time::Duration;

use async_trait::async_trait;
use golem_vm_node::sqlite::FailureKind;
use golem_vm_node::store::StoreError;
use golem_vm_protocol::time::Timestamp;
use golem_vm_protocol::vm::{Actor, Cause, EventKind, Owner, SshPublicKey, ValidKeyChange};
use golem_vm_protocol::{ErrorCode, VmId, VmRef};
use rusqlite::{Connection, OptionalExtension as _, params};

use super::columns::{VM_COLUMNS, VM_FROM, signed, vm};
use super::{Moment, ProviderStore, anchor, changes, events, ledger, operations};
use crate::capacity::Amount;
use crate::steady::{Anchor, SteadyTime};
use crate::vm::admission::{Admission, Bounds, NewVm, RepeatedRequest};
use crate::vm::history::{EventRecord, Occurrence, Reason, Transition};
use crate::vm::lease::Lease;
use crate::vm::record::OwnerColumn;
use crate::vm::repository::VmRepository;
use crate::vm::{OperationRecord, VmError, VmRecord, VmState, keys};

/// How long a VM that failed can be asked about.
const FAILED_KEPT: Duration = Duration::from_secs(3600);
/// How long a request that is repeated finds its operation (and so its VM).
const OPERATIONS_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// Two ends of a lease that are not further apart are the same.
const SAME_MOMENT: Duration = Duration::from_secs(1);
/// How long a VM that is only kept can be had back at least once the machine is up again.
const TIME_TO_RETURN: Duration = Duration::from_secs(3600);

#[async_trait]
impl VmRepository for ProviderStore {
    async fn repeated(&self, request: RepeatedRequest) -> Result<Option<OperationRecord>, VmError> {
        self.store.read("vm.repeated", move |db| operations::repeated(db, &request)).await
    }

    async fn admit(&self, new: NewVm, bounds: Bounds) -> Result<Admission, VmError> {
        let moment = self.moment();
        self.store.write("vm.admit", move |db| ledger::admit(db, new, &bounds, moment)).await
    }

    async fn find(&self, owner: Owner, vm_ref: VmRef) -> Result<Option<VmRecord>, VmError> {
        self.store.read("vm.find", move |db| find(db, owner, &vm_ref)).await
    }

    async fn get(&self, id: VmId) -> Result<Option<VmRecord>, VmError> {
        self.store.read("vm.get", move |db| get(db, id)).await
    }

    async fn list(&self, owner: Owner) -> Result<Vec<VmRecord>, VmError> {
        self.store
            .read("vm.list", move |db| {
                select(
                    db,
                    "vm.state <> 'failed' AND vm.owner = ?1",
                    &[&OwnerColumn(owner).to_string()],
                )
            })
            .await
    }

    async fn all(&self) -> Result<Vec<VmRecord>, VmError> {
        self.store.read("vm.all", |db| select(db, "vm.state <> 'failed'", &[])).await
    }

    async fn take_up(&self) -> Result<Vec<VmRecord>, VmError> {
        let this = self.clone();
        let taken = self
            .store
            .write("vm.take_up", move |db| {
                if let Some(anchor) = this.anchor.as_ref().filter(|_| this.steady.booted()) {
                    after_boot(db, anchor, this.moment())?;
                }
                anchor::write(db, &this.steady.anchor(this.clock.now_micros()))?;
                select(db, "vm.state <> 'failed'", &[])
            })
            .await;
        match taken {
            // Within one boot the anchor that is there is as good: the VMs are served on a full disk too.
            Err(VmError::Store(StoreError::Database { kind: FailureKind::DiskFull, .. }))
                if !self.steady.booted() =>
            {
                tracing::error!(
                    "the disk with the database is full: nothing can be changed until there is room"
                );
                self.all().await
            }
            taken => taken,
        }
    }

    async fn transition(&self, id: VmId, change: Transition) -> Result<VmRecord, VmError> {
        let moment = self.moment();
        self.store
            .write("vm.transition", move |db| changes::transition(db, id, &change, moment))
            .await
    }

    async fn occurred(&self, id: VmId, occurrence: Occurrence) -> Result<(), VmError> {
        let moment = self.moment();
        self.store
            .write("vm.occurred", move |db| changes::occurred(db, id, &occurrence, moment))
            .await
    }

    async fn set_quarantined(&self, id: VmId, quarantined: bool) -> Result<VmRecord, VmError> {
        let moment = self.moment();
        self.store
            .write("vm.set_quarantined", move |db| {
                let before = expect(db, id)?;
                // The first time counts.
                db.execute(
                    "UPDATE vm SET quarantined_at = iif(?2, coalesce(quarantined_at, ?3), NULL) WHERE id = ?1",
                    params![id.to_string(), quarantined, moment.wall.unix_micros()],
                )?;
                if before.quarantined_at.is_some() != quarantined {
                    let what = if quarantined {
                        "the provider's owner has cut it off from the network"
                    } else {
                        "the provider's owner has let it back into the network"
                    };
                    let reason = Reason::new(Actor::ProviderOwner, Cause::Requested).with(what);
                    let note = Occurrence { kind: EventKind::Note, reason };
                    changes::occurred(db, id, &note, moment)?;
                }
                expect(db, id)
            })
            .await
    }

    async fn set_phase(&self, id: VmId, phase: String) -> Result<(), VmError> {
        let moment = self.moment();
        self.store
            .write("vm.set_phase", move |db| {
                operations::set_phase(db, id, &phase, moment.wall)?;
                let reason = Reason::own(Cause::Requested).with(phase);
                let progress = Occurrence { kind: EventKind::Progress, reason };
                changes::occurred(db, id, &progress, moment)
            })
            .await
    }

    async fn created(&self, id: VmId) -> Result<VmRecord, VmError> {
        let moment = self.moment();
        self.store
            .write("vm.created", move |db| {
                let record = expect(db, id)?;
                // It was not to be paid for while it was being made; an extension stays.
                let lease = Lease::begin(record.lease.grant, moment.steady);
                write_lease_end(db, id, lease.expires.max(record.lease.expires))?;
                let reason = Reason::own(Cause::Completed);
                changes::transition(db, id, &Transition { to: VmState::Running, reason }, moment)?;
                operations::ready(db, id, moment.wall)?;
                forget_user_data(db, id)?;
                expect(db, id)
            })
            .await
    }

    async fn creation_failed(
        &self,
        id: VmId,
        code: ErrorCode,
        message: String,
        cause: Cause,
    ) -> Result<(), VmError> {
        let moment = self.moment();
        self.store
            .write("vm.creation_failed", move |db| {
                operations::failed(db, id, code, &message, moment.wall)?;
                let reason = Reason::own(cause).with(message);
                changes::transition(
                    db,
                    id,
                    &Transition { to: VmState::Destroying, reason },
                    moment,
                )?;
                Ok(())
            })
            .await
    }

    async fn release_failed(
        &self,
        id: VmId,
        code: ErrorCode,
        message: String,
    ) -> Result<(), VmError> {
        let moment = self.moment();
        self.store
            .write("vm.release_failed", move |db| {
                operations::failed(db, id, code, &message, moment.wall)?;
                db.execute("DELETE FROM port WHERE vm = ?1", params![id.to_string()])?;
                forget_user_data(db, id)?;
                // Its keys open nothing any more.
                db.execute(
                    "UPDATE vm SET host_key_private = '' WHERE id = ?1",
                    params![id.to_string()],
                )?;
                let reason = Reason::own(Cause::LaunchFailed).with(message.clone());
                let to = VmState::Failed { code, message };
                changes::transition(db, id, &Transition { to, reason }, moment)?;
                Ok(())
            })
            .await
    }

    async fn change_keys(
        &self,
        owner: Owner,
        vm: VmRef,
        change: ValidKeyChange,
    ) -> Result<VmRecord, VmError> {
        let moment = self.moment();
        self.store
            .write("vm.change_keys", move |db| {
                let found = find(db, owner, &vm)?.filter(|record| {
                    !matches!(record.state, VmState::Failed { .. } | VmState::Destroying)
                });
                let record = found.ok_or_else(|| VmError::NotFound(vm.as_str().to_owned()))?;
                let keys = keys::changed(&record.authorized_keys, &change)?;
                if keys == record.authorized_keys {
                    return Ok(record);
                }
                db.execute(
                    "UPDATE vm SET authorized_keys = ?2, keys_pending = 1 WHERE id = ?1",
                    params![record.id.to_string(), keys_text(&keys)?],
                )?;
                let what = format!("its SSH keys were changed: {} now", keys.len());
                let reason = Reason::new(Actor::Requestor, Cause::Requested).with(what);
                let note = Occurrence { kind: EventKind::Note, reason };
                changes::occurred(db, record.id, &note, moment)?;
                expect(db, record.id)
            })
            .await
    }

    async fn keys_applied(&self, id: VmId, keys: Vec<SshPublicKey>) -> Result<VmRecord, VmError> {
        self.store
            .write("vm.keys_applied", move |db| {
                db.execute(
                    "UPDATE vm SET keys_pending = 0 WHERE id = ?1 AND authorized_keys = ?2",
                    params![id.to_string(), keys_text(&keys)?],
                )?;
                expect(db, id)
            })
            .await
    }

    async fn extend(&self, id: VmId, expires: SteadyTime) -> Result<VmRecord, VmError> {
        let moment = self.moment();
        self.store
            .write("vm.extend", move |db| {
                let record = expect(db, id)?;
                // One without an end has more than any; and a request that is repeated, perhaps after a
                // restart, means the same moment, whatever it is measured to be.
                if record.lease.expires.is_none_or(|end| end.plus(SAME_MOMENT) > expires) {
                    return Ok(record);
                }
                write_lease_end(db, id, Some(expires))?;
                let until = expires.on_the_wall(moment.steady, moment.wall);
                let reason = Reason::new(Actor::Requestor, Cause::Requested)
                    .with(format!("its lease ends at {until} now"));
                changes::occurred(db, id, &Occurrence { kind: EventKind::Lease, reason }, moment)?;
                expect(db, id)
            })
            .await
    }

    async fn warned(&self, id: VmId) -> Result<VmRecord, VmError> {
        let moment = self.moment();
        self.store
            .write("vm.warned", move |db| {
                let record = expect(db, id)?;
                if record.lease.warned {
                    return Ok(record);
                }
                db.execute(
                    "UPDATE vm SET lease_warned = 1 WHERE id = ?1",
                    params![id.to_string()],
                )?;
                let reason = Reason::own(Cause::LeaseEndsSoon);
                changes::occurred(db, id, &Occurrence { kind: EventKind::Lease, reason }, moment)?;
                expect(db, id)
            })
            .await
    }

    async fn undelete(
        &self,
        id: VmId,
        lasting: Duration,
        offered: Amount,
    ) -> Result<VmRecord, VmError> {
        let moment = self.moment();
        self.store
            .write("vm.undelete", move |db| {
                let record = expect(db, id)?;
                if !matches!(record.state, VmState::Retained { .. }) {
                    return Ok(record);
                }
                ledger::check_room_for_return(db, record.terms.resources.into(), offered)?;
                write_lease_end(db, id, Some(moment.steady.plus(lasting)))?;
                let reason =
                    Reason::new(Actor::Requestor, Cause::Requested).with("its owner has it back");
                // Its memory is kept with it.
                let to = if record.suspend_gb > 0 { VmState::Suspended } else { VmState::STOPPED };
                changes::transition(db, id, &Transition { to, reason }, moment)
            })
            .await
    }

    async fn remove(&self, id: VmId, reason: Reason) -> Result<(), VmError> {
        let moment = self.moment();
        self.store
            .write("vm.remove", move |db| {
                changes::end(db, id, &reason, moment)?;
                db.execute("DELETE FROM vm WHERE id = ?1", params![id.to_string()])?;
                Ok(())
            })
            .await
    }

    async fn events(
        &self,
        owner: Owner,
        vm: VmRef,
        after: u64,
        limit: u32,
    ) -> Result<Option<Vec<EventRecord>>, VmError> {
        self.store.read("vm.events", move |db| events::of_one(db, owner, &vm, after, limit)).await
    }

    async fn all_events(
        &self,
        vm: Option<VmRef>,
        after: i64,
        limit: u32,
    ) -> Result<Vec<EventRecord>, VmError> {
        self.store
            .read("vm.all_events", move |db| events::of_all(db, vm.as_ref(), after, limit))
            .await
    }

    async fn last_events(
        &self,
        vm: Option<VmRef>,
        count: u32,
    ) -> Result<Vec<EventRecord>, VmError> {
        self.store.read("vm.last_events", move |db| events::last(db, vm.as_ref(), count)).await
    }

    async fn operation(
        &self,
        owner: Owner,
        id: String,
    ) -> Result<Option<OperationRecord>, VmError> {
        self.store.read("vm.operation", move |db| operations::find(db, owner, &id)).await
    }

    async fn reserved(&self) -> Result<Amount, VmError> {
        self.store.read("vm.reserved", |db| Ok(ledger::reserved(db)?.0)).await
    }

    async fn forget_old(&self) -> Result<(), VmError> {
        let (this, moment) = (self.clone(), self.moment());
        let now = moment.wall;
        let before = move |age: Duration| {
            now.unix_micros() - i64::try_from(age.as_micros()).unwrap_or(i64::MAX)
        };
        self.store
            .write("vm.forget_old", move |db| {
                db.execute(
                    "DELETE FROM vm WHERE state = 'failed' AND updated_at < ?1",
                    params![before(FAILED_KEPT)],
                )?;
                db.execute(
                    "DELETE FROM operation WHERE created_at < ?1 AND status <> 'creating'",
                    params![before(OPERATIONS_KEPT)],
                )?;
                events::forget_old(db, moment)?;
                anchor::write(db, &this.steady.anchor(this.clock.now_micros()))
            })
            .await
    }
}

fn keys_text(keys: &[SshPublicKey]) -> Result<String, VmError> {
    serde_json::to_string(keys)
        .map_err(|error| VmError::Internal(format!("keys can't be written: {error}")))
}

pub(super) fn insert(db: &Connection, record: &VmRecord) -> Result<(), VmError> {
    let keys = keys_text(&record.authorized_keys)?;
    let (terms, lease) = (&record.terms, &record.lease);
    db.execute(
        "INSERT INTO vm (id, owner, name, state, cpu, memory_gb, storage_gb, image, image_digest, backend, \
         isolation, core_month, gb_ram_month, gb_storage_month, host_key_private, host_key, authorized_keys, \
         operation, created_at, updated_at, egress, lease_seconds, lease_expires, on_expiry, grace_seconds, \
         idle_seconds, accel, user_data, clone_of) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?19, ?20, \
         ?21, ?22, ?23, ?24, ?25, ?26, ?27, ?28)",
        params![
            record.id.to_string(),
            OwnerColumn(record.owner).to_string(),
            record.name.as_str(),
            record.state.as_str(),
            terms.resources.cpu,
            terms.resources.memory,
            terms.resources.storage,
            terms.image,
            terms.image_digest.as_str(),
            terms.backend.as_str(),
            terms.isolation.to_string(),
            signed(terms.prices.core_month),
            signed(terms.prices.gb_ram_month),
            signed(terms.prices.gb_storage_month),
            record.host_key.private,
            record.host_key.public.as_str(),
            keys,
            record.operation,
            record.created_at.unix_micros(),
            terms.egress.as_str(),
            lease.grant.duration.map(|span| signed(span.as_secs())),
            lease.expires.map(|end| signed(end.micros())),
            lease.grant.on_expiry.as_str(),
            signed(lease.grant.grace.as_secs()),
            lease.grant.stop_when_idle.map(|span| signed(span.as_secs())),
            terms.accel,
            record.user_data.as_ref().map(|data| &data.0),
            record.clone_of.map(|source| source.to_string()),
        ],
    )?;
    db.execute(
        "INSERT INTO port (host_port, vm, guest_port, protocol, purpose) VALUES (?1, ?2, 22, 'tcp', 'ssh')",
        params![record.ssh_port, record.id.to_string()],
    )?;
    Ok(())
}

/// It was needed for the making of the VM, which is over: there may be passwords in it.
fn forget_user_data(db: &Connection, id: VmId) -> Result<(), VmError> {
    db.execute("UPDATE vm SET user_data = NULL WHERE id = ?1", params![id.to_string()])?;
    Ok(())
}

fn write_lease_end(db: &Connection, id: VmId, end: Option<SteadyTime>) -> Result<(), VmError> {
    db.execute(
        "UPDATE vm SET lease_expires = ?2, lease_warned = 0 WHERE id = ?1",
        params![id.to_string(), end.map(|end| signed(end.micros()))],
    )?;
    Ok(())
}

/// The machine went down and is up again: what ran does not, though it was meant to; and who has a VM
/// that is only kept gets some time to have it back.
fn after_boot(db: &Connection, down: &Anchor, now: Moment) -> Result<(), VmError> {
    let went_down = Moment {
        wall: Timestamp::from_unix_micros(i64::try_from(down.wall_micros).unwrap_or(i64::MAX)),
        steady: down.steady,
    };
    for record in select(db, "vm.state = 'running'", &[])? {
        let reason = Reason::new(Actor::Host, Cause::HostStopped)
            .with("the provider's machine went down at this time or a little later");
        let change = Transition { to: VmState::Starting, reason };
        changes::transition(db, record.id, &change, went_down)?;
    }
    for record in select(db, "vm.retained_until IS NOT NULL", &[])? {
        let at_least = now.steady.plus(record.lease.grant.grace.min(TIME_TO_RETURN));
        db.execute(
            "UPDATE vm SET retained_until = max(retained_until, ?2) WHERE id = ?1",
            params![record.id.to_string(), signed(at_least.micros())],
        )?;
    }
    Ok(())
}

fn select(
    db: &Connection,
    condition: &str,
    values: &[&dyn rusqlite::ToSql],
) -> Result<Vec<VmRecord>, VmError> {
    let sql = format!(
        "SELECT {VM_COLUMNS} FROM {VM_FROM} WHERE {condition} ORDER BY vm.created_at, vm.id"
    );
    let mut statement = db.prepare_cached(&sql)?;
    let rows = statement.query_map(values, vm)?.collect::<Result<_, _>>()?;
    Ok(rows)
}

fn find(db: &Connection, owner: Owner, vm_ref: &VmRef) -> Result<Option<VmRecord>, VmError> {
    let owner_text = OwnerColumn(owner).to_string();
    let (column, value) = match vm_ref {
        VmRef::Id(id, _) => ("vm.id", id.to_string()),
        VmRef::Name(name) => ("vm.name", name.to_string()),
    };
    // One that failed is found only where no other of that name is.
    let sql = format!(
        "SELECT {VM_COLUMNS} FROM {VM_FROM} WHERE vm.owner = ?1 AND {column} = ?2 \
         ORDER BY vm.state = 'failed', vm.created_at DESC LIMIT 1"
    );
    Ok(db.query_row(&sql, params![owner_text, value], vm).optional()?)
}

pub(super) fn get(db: &Connection, id: VmId) -> Result<Option<VmRecord>, VmError> {
    let sql = format!("SELECT {VM_COLUMNS} FROM {VM_FROM} WHERE vm.id = ?1");
    Ok(db.query_row(&sql, params![id.to_string()], vm).optional()?)
}

pub(super) fn expect(db: &Connection, id: VmId) -> Result<VmRecord, VmError> {
    get(db, id)?.ok_or_else(|| VmError::NotFound(id.to_string()))
}
