//! The SQL of the row from which steady time goes on.

use std::time::Duration;

use rusqlite::{Connection, params};

use super::columns::signed;
use crate::steady::{Anchor, SteadyTime};
use crate::vm::VmError;

/// What was written down, if it can be read; time begins anew otherwise.
pub(super) fn read(db: &Connection) -> Option<Anchor> {
    let positive = |number: i64| u64::try_from(number).unwrap_or_default();
    let row = db.query_row("SELECT boot_id, since_boot, steady, wall FROM steady", [], |row| {
        Ok(Anchor {
            boot_id: row.get(0)?,
            since_boot: Duration::from_micros(positive(row.get(1)?)),
            steady: SteadyTime::from_micros(positive(row.get(2)?)),
            wall_micros: positive(row.get(3)?),
        })
    });
    row.ok()
}

pub(super) fn write(db: &Connection, anchor: &Anchor) -> Result<(), VmError> {
    let since_boot = u64::try_from(anchor.since_boot.as_micros()).unwrap_or(u64::MAX);
    db.execute(
        "INSERT OR REPLACE INTO steady (one, boot_id, since_boot, steady, wall) VALUES (1, ?1, ?2, ?3, ?4)",
        params![
            anchor.boot_id,
            signed(since_boot),
            signed(anchor.steady.micros()),
            signed(anchor.wall_micros)
        ],
    )?;
    Ok(())
}
