//! The SQL of the audit: what is reserved and by whom, all of one moment.

use golem_vm_protocol::VmResources;
use rusqlite::{Connection, Row};

use super::{ProviderStore, ledger};
use crate::capacity::{Amount, Booked, Books};
use crate::vm::VmError;

impl ProviderStore {
    /// What the database says of what is reserved.
    ///
    /// # Errors
    /// When it can't be read.
    pub async fn books(&self) -> Result<Books, VmError> {
        self.store.read("ledger.books", books).await
    }
}

fn books(db: &Connection) -> Result<Books, VmError> {
    let mut rows = db.prepare_cached(
        "SELECT id, owner, name, state, max(cpu, coalesce(runs_cpu, 0)), \
         max(memory_gb, coalesce(runs_memory_gb, 0)), storage_gb + suspend_gb + \
         (SELECT coalesce(sum(reserved_gb), 0) FROM snapshot WHERE snapshot.vm = vm.id), \
         retained_until IS NOT NULL FROM vm ORDER BY id",
    )?;
    let mut ports = db.prepare_cached("SELECT host_port, vm FROM port ORDER BY host_port")?;
    let ports = ports.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(Books {
        reserved: ledger::reserved(db)?.0,
        vms: rows.query_map([], booked)?.collect::<Result<_, _>>()?,
        ports: ports.collect::<Result<_, _>>()?,
    })
}

fn booked(row: &Row<'_>) -> rusqlite::Result<Booked> {
    let state: String = row.get(3)?;
    let size =
        Amount::from(VmResources { cpu: row.get(4)?, memory: row.get(5)?, storage: row.get(6)? });
    let is_held = state != "failed";
    let holds = match (is_held, row.get(7)?) {
        (false, _) => Amount::default(),
        // Only its disk is kept for it.
        (true, true) => Amount { storage_mib: size.storage_mib, ..Amount::default() },
        (true, false) => size,
    };
    Ok(Booked { id: row.get(0)?, owner: row.get(1)?, name: row.get(2)?, holds, is_held })
}
