//! The SQL of histories.

use std::time::Duration;

use golem_vm_protocol::VmRef;
use golem_vm_protocol::time::Timestamp;
use golem_vm_protocol::vm::{Actor, Cause, EventKind, Owner, VmResources, VmStage};
use rusqlite::{Connection, OptionalExtension as _, Row, ToSql, params};

use super::Moment;
use super::columns::{parsed, signed, unsigned};
use crate::steady::SteadyTime;
use crate::vm::VmError;
use crate::vm::history::{EventRecord, Reason};
use crate::vm::record::OwnerColumn;

/// How long the history of a VM that is gone is kept.
const GONE_KEPT: Duration = Duration::from_secs(90 * 24 * 3600);
/// Events that are kept of one VM; what is older is forgotten, and the numbers go on.
const KEPT_PER_VM: u32 = 2_000;
/// Events that are kept in all.
const KEPT_IN_ALL: u32 = 200_000;

const COLUMNS: &str = "id, vm, vm_public_id, vm_name, owner, number, at, steady, kind, from_stage, to_stage, \
                       actor, cause, detail, cpu, memory_gb, storage_gb, delivered";

fn event(row: &Row<'_>) -> rusqlite::Result<EventRecord> {
    let word = |column: usize| row.get::<_, String>(column);
    Ok(EventRecord {
        id: row.get(0)?,
        vm: parsed(row, 1)?,
        vm_public_id: row.get(2)?,
        vm_name: row.get(3)?,
        owner: parsed::<OwnerColumn>(row, 4)?.0,
        number: unsigned(row, 5)?,
        at: Timestamp::from_unix_micros(row.get(6)?),
        steady: SteadyTime::from_micros(unsigned(row, 7)?),
        kind: EventKind::from_word(&word(8)?),
        from: row.get::<_, Option<String>>(9)?.map(|word| VmStage::from_word(&word)),
        to: VmStage::from_word(&word(10)?),
        reason: Reason {
            actor: Actor::from_word(&word(11)?),
            cause: Cause::from_word(&word(12)?),
            detail: row.get(13)?,
        },
        resources: VmResources { cpu: row.get(14)?, memory: row.get(15)?, storage: row.get(16)? },
        delivered_micros: unsigned(row, 17)?,
    })
}

/// The events of one VM of an owner, there or gone.
pub(super) fn of_one(
    db: &Connection,
    owner: Owner,
    vm: &VmRef,
    after: u64,
    limit: u32,
) -> Result<Option<Vec<EventRecord>>, VmError> {
    let owner = OwnerColumn(owner).to_string();
    let (column, value) = column_of(vm);
    let newest =
        format!("SELECT vm FROM event WHERE owner = ?1 AND {column} = ?2 ORDER BY id DESC LIMIT 1");
    let found: Option<String> =
        db.query_row(&newest, params![owner, value], |row| row.get(0)).optional()?;
    let Some(id) = found else { return Ok(None) };
    let sql = format!(
        "SELECT {COLUMNS} FROM event WHERE vm = ?1 AND owner = ?2 AND number > ?3 ORDER BY number LIMIT ?4"
    );
    select(db, &sql, &[&id, &owner, &signed(after), &limit]).map(Some)
}

/// The events of everybody, or of the VMs of that id or name, after one of them.
pub(super) fn of_all(
    db: &Connection,
    vm: Option<&VmRef>,
    after: i64,
    limit: u32,
) -> Result<Vec<EventRecord>, VmError> {
    let (column, value) = vm.map_or(("''", String::new()), column_of);
    let sql =
        format!("SELECT {COLUMNS} FROM event WHERE id > ?1 AND {column} = ?2 ORDER BY id LIMIT ?3");
    select(db, &sql, &[&after, &value, &limit])
}

/// The last of them.
pub(super) fn last(
    db: &Connection,
    vm: Option<&VmRef>,
    count: u32,
) -> Result<Vec<EventRecord>, VmError> {
    let (column, value) = vm.map_or(("''", String::new()), column_of);
    let sql = format!("SELECT {COLUMNS} FROM event WHERE {column} = ?1 ORDER BY id DESC LIMIT ?2");
    let mut events = select(db, &sql, &[&value, &count])?;
    events.reverse();
    Ok(events)
}

fn column_of(vm: &VmRef) -> (&'static str, String) {
    match vm {
        VmRef::Id(id, _) => ("vm", id.to_string()),
        VmRef::Name(name) => ("vm_name", name.to_string()),
    }
}

fn select(db: &Connection, sql: &str, values: &[&dyn ToSql]) -> Result<Vec<EventRecord>, VmError> {
    let mut statement = db.prepare_cached(sql)?;
    let events = statement.query_map(values, event)?.collect::<Result<_, _>>()?;
    Ok(events)
}

/// Forgets what is older than its time, or too much.
pub(super) fn forget_old(db: &Connection, now: Moment) -> Result<(), VmError> {
    let age = u64::try_from(GONE_KEPT.as_micros()).unwrap_or(u64::MAX);
    let before = signed(now.steady.micros().saturating_sub(age));
    // Whole histories: what a VM did in its first days counts until all of it is forgotten.
    db.execute(
        "DELETE FROM event WHERE vm NOT IN (SELECT id FROM vm) \
         AND vm IN (SELECT vm FROM event GROUP BY vm HAVING max(steady) < ?1)",
        params![before],
    )?;
    db.execute(
        "DELETE FROM event WHERE EXISTS (SELECT 1 FROM vm WHERE vm.id = event.vm \
         AND event.number <= vm.events - ?1)",
        params![KEPT_PER_VM],
    )?;
    db.execute(
        "DELETE FROM event WHERE id <= (SELECT coalesce(max(id), 0) FROM event) - ?1",
        params![KEPT_IN_ALL],
    )?;
    Ok(())
}
