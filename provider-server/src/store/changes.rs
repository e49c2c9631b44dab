//! The SQL of what happens to a VM: its state and the event of it, always together.

use golem_vm_protocol::VmId;
use golem_vm_protocol::vm::{EventKind, VmStage};
use rusqlite::{Connection, params};

use super::Moment;
use super::columns::signed;
use super::vms::{expect, get};
use crate::steady::SteadyTime;
use crate::vm::history::{Occurrence, Reason, Transition};
use crate::vm::state::AfterStop;
use crate::vm::{VmError, VmRecord, VmState};

/// This moment, or that of the VM's last event if that is later: who came second to the database may have
/// looked at the clock first.
fn in_order(db: &Connection, id: VmId, moment: Moment) -> Result<Moment, VmError> {
    let last: i64 = db
        .prepare_cached(
            "SELECT coalesce((SELECT steady FROM event WHERE vm = ?1 ORDER BY number DESC LIMIT 1), 0)",
        )?
        .query_row([id.to_string()], |row| row.get(0))?;
    let last = SteadyTime::from_micros(u64::try_from(last).unwrap_or_default());
    Ok(Moment { steady: moment.steady.max(last), ..moment })
}

/// Passes a VM to another state, and writes its event. A state that it has already changes nothing.
pub(super) fn transition(
    db: &Connection,
    id: VmId,
    change: &Transition,
    moment: Moment,
) -> Result<VmRecord, VmError> {
    let before = expect(db, id)?;
    if before.state == change.to {
        return Ok(before);
    }
    let moment = in_order(db, id, moment)?;
    let from = before.state.stage();
    write_state(db, id, &change.to, moment)?;
    give_back(db, id, &before.state, &change.to)?;
    if from == change.to.stage() {
        // The same state for another reason.
        return expect(db, id);
    }
    count_delivery(db, id, from, change.to.stage(), moment)?;
    write_event(db, id, EventKind::State, Some(from), change.to.stage(), &change.reason, moment)?;
    expect(db, id)
}

/// Writes the event with which a VM's history begins.
pub(super) fn begin(
    db: &Connection,
    id: VmId,
    reason: &Reason,
    moment: Moment,
) -> Result<(), VmError> {
    write_event(db, id, EventKind::State, None, VmStage::Creating, reason, moment)
}

/// Writes the event with which a VM's history ends. The row goes right after it.
pub(super) fn end(
    db: &Connection,
    id: VmId,
    reason: &Reason,
    moment: Moment,
) -> Result<(), VmError> {
    let Some(before) = get(db, id)? else { return Ok(()) };
    let from = before.state.stage();
    if from == VmStage::Failed {
        return Ok(());
    }
    let moment = in_order(db, id, moment)?;
    count_delivery(db, id, from, VmStage::Destroyed, moment)?;
    write_event(db, id, EventKind::State, Some(from), VmStage::Destroyed, reason, moment)
}

/// Writes an event that changes no state. Of a VM that is gone, nothing more happens.
pub(super) fn occurred(
    db: &Connection,
    id: VmId,
    occurrence: &Occurrence,
    moment: Moment,
) -> Result<(), VmError> {
    let Some(record) = get(db, id)? else { return Ok(()) };
    let stage = record.state.stage();
    let moment = in_order(db, id, moment)?;
    write_event(db, id, occurrence.kind, Some(stage), stage, &occurrence.reason, moment)
}

fn write_state(db: &Connection, id: VmId, state: &VmState, moment: Moment) -> Result<(), VmError> {
    let code = match state {
        VmState::Failed { code, .. } => Some(code.as_str()),
        _ => None,
    };
    let (next, work, snapshot) = match state {
        VmState::Stopping { next } => match next {
            AfterStop::Stopped { .. } => (Some("stopped"), None, None),
            AfterStop::Started => (Some("started"), None, None),
            AfterStop::Retained { .. } => (Some("retained"), None, None),
            AfterStop::Restored { snapshot, run } => {
                let then = if *run { "started" } else { "stopped" };
                (Some(then), Some("restoring"), Some(snapshot.as_str()))
            }
        },
        VmState::Suspending => (None, Some("suspending"), None),
        VmState::Suspended => (None, Some("suspended"), None),
        _ => (None, None, None),
    };
    let retained = match state {
        VmState::Retained { since, until, .. } => {
            Some((signed(since.micros()), signed(until.micros())))
        }
        _ => None,
    };
    // One that was only kept takes back nothing when it is destroyed: somebody else may have it by now.
    db.execute(
        "UPDATE vm SET state = ?2, message = ?3, code = ?4, updated_at = ?5, next = ?6, \
         work = ?9, work_snapshot = ?10, \
         retained_since = iif(?2 = 'destroying', retained_since, ?7), \
         retained_until = iif(?2 = 'destroying', retained_until, ?8) WHERE id = ?1",
        params![
            id.to_string(),
            state.as_str(),
            state.message(),
            code,
            moment.wall.unix_micros(),
            next,
            retained.map(|(since, _)| since),
            retained.map(|(_, until)| until),
            work,
            snapshot,
        ],
    )?;
    Ok(())
}

/// What a VM needs no more in its new state is not reserved any longer.
fn give_back(db: &Connection, id: VmId, before: &VmState, now: &VmState) -> Result<(), VmError> {
    // Its memory is in its memory, or nowhere.
    if matches!(now, VmState::Running | VmState::Stopped { .. } | VmState::Failed { .. }) {
        db.execute("UPDATE vm SET suspend_gb = 0 WHERE id = ?1", params![id.to_string()])?;
    }
    // It boots with its size next; one that is suspended goes on with what it had.
    let restarts = (before.stage(), now.stage()) == (VmStage::Stopping, VmStage::Starting);
    if restarts || matches!(now, VmState::Stopped { .. } | VmState::Failed { .. }) {
        db.execute(
            "UPDATE vm SET runs_cpu = NULL, runs_memory_gb = NULL WHERE id = ?1",
            params![id.to_string()],
        )?;
    }
    Ok(())
}

/// Time in the state 'running' is what is delivered.
fn count_delivery(
    db: &Connection,
    id: VmId,
    from: VmStage,
    to: VmStage,
    moment: Moment,
) -> Result<(), VmError> {
    let now = signed(moment.steady.micros());
    if from == VmStage::Running {
        db.execute(
            "UPDATE vm SET delivered = delivered + max(0, ?2 - coalesce(running_since, ?2)), \
             running_since = NULL WHERE id = ?1",
            params![id.to_string(), now],
        )?;
    }
    if to == VmStage::Running {
        db.execute("UPDATE vm SET running_since = ?2 WHERE id = ?1", params![id.to_string(), now])?;
    }
    Ok(())
}

fn write_event(
    db: &Connection,
    id: VmId,
    kind: EventKind,
    from: Option<VmStage>,
    to: VmStage,
    reason: &Reason,
    moment: Moment,
) -> Result<(), VmError> {
    let record = expect(db, id)?;
    db.execute("UPDATE vm SET events = events + 1 WHERE id = ?1", params![id.to_string()])?;
    db.execute(
        "INSERT INTO event (vm, number, vm_public_id, vm_name, owner, at, steady, kind, from_stage, to_stage, \
         actor, cause, detail, cpu, memory_gb, storage_gb, delivered) \
         SELECT id, events, ?2, name, owner, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, cpu, memory_gb, storage_gb, \
         delivered + max(0, ?4 - coalesce(running_since, ?4)) FROM vm WHERE id = ?1",
        params![
            id.to_string(),
            record.public_id(),
            moment.wall.unix_micros(),
            signed(moment.steady.micros()),
            kind.as_str(),
            from.map(VmStage::as_str),
            to.as_str(),
            reason.actor.as_str(),
            reason.cause.as_str(),
            reason.detail,
        ],
    )?;
    Ok(())
}
