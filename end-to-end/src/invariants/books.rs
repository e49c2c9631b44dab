//! The provider's database, read beside it.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};

/// A VM's row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Row {
    /// The VM's id.
    pub id: String,
    /// Whose it is.
    pub owner: String,
    /// The owner's name for it.
    pub name: String,
    /// The word of its state in its history: `retained` where it is only kept.
    pub state: String,
    /// vCPUs, as many as are reserved.
    pub cpu: u32,
    /// GiB of memory.
    pub memory: u32,
    /// GiB of disk, those for snapshots and for kept memory too.
    pub storage: u32,
    /// Whether it is cut off from the network.
    pub quarantined: bool,
    /// The id of the operation that made it.
    pub operation: String,
}

/// One thing that happened to a VM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Event {
    /// The VM's id.
    pub vm: String,
    /// Its number.
    pub number: u64,
    /// The state before, if there was one.
    pub from: Option<String>,
    /// The state since then.
    pub to: String,
    /// The provider's steady clock, in microseconds.
    pub steady: u64,
    /// For how long the VM had run by then, in microseconds.
    pub delivered: u64,
}

/// What the database says, all read in one transaction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Books {
    /// The VMs.
    pub vms: Vec<Row>,
    /// Ports: number, VM, purpose.
    pub ports: Vec<(u16, String, String)>,
    /// Operations that are not over: id and VM.
    pub open_operations: Vec<(String, String)>,
    /// Ids of all operations.
    pub operations: Vec<String>,
    /// Instances that were seen without a VM.
    pub orphans: Vec<String>,
    /// Whole snapshots: VM and name.
    pub snapshots: Vec<(String, String)>,
    /// What was begun with snapshots and sizes and is not over, in words.
    pub half_done: Vec<String>,
    /// What happened, oldest first of each VM.
    pub events: Vec<Event>,
}

impl Books {
    /// Reads the database of the provider with this data directory; empty if there is none yet.
    ///
    /// # Panics
    /// When it can't be read.
    #[must_use]
    pub fn read(data_dir: &Path) -> Self {
        let path = data_dir.join("state.db");
        if !path.exists() {
            return Self::default();
        }
        let mut db = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_WRITE)
            .unwrap_or_else(|error| panic!("{} can't be opened: {error}", path.display()));
        db.busy_timeout(std::time::Duration::from_secs(30)).unwrap();
        let db = db.transaction().unwrap();
        Self::from_database(&db)
            .unwrap_or_else(|error| panic!("{} can't be read: {error}", path.display()))
    }

    fn from_database(db: &Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            vms: vms(db)?,
            ports: all(db, "SELECT host_port, vm, purpose FROM port ORDER BY host_port", |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })?,
            open_operations: all(
                db,
                "SELECT id, vm FROM operation WHERE status = 'creating' ORDER BY id",
                |row| Ok((row.get(0)?, row.get(1)?)),
            )?,
            operations: all(db, "SELECT id FROM operation ORDER BY id", |row| row.get(0))?,
            orphans: all(db, "SELECT instance FROM orphan ORDER BY instance", |row| row.get(0))?,
            snapshots: all(
                db,
                "SELECT vm, name FROM snapshot WHERE stage = 'ready' ORDER BY vm, rowid",
                |row| Ok((row.get(0)?, row.get(1)?)),
            )?,
            half_done: all(
                db,
                "SELECT 'snapshot ' || name || ' of ' || vm || ' is ' || stage FROM snapshot \
                 WHERE stage <> 'ready' \
                 UNION ALL SELECT 'the new size of ' || id || ' is not applied' FROM vm WHERE resize_pending",
                |row| row.get(0),
            )?,
            events: events(db)?,
        })
    }

    /// The row of a VM.
    #[must_use]
    pub fn vm(&self, id: &str) -> Option<&Row> {
        self.vms.iter().find(|row| row.id == id)
    }
}

fn vms(db: &Connection) -> rusqlite::Result<Vec<Row>> {
    // The table has no word of its own for what is only kept, or suspended.
    let sql = "SELECT id, owner, name, \
               CASE WHEN state = 'stopped' AND retained_until IS NOT NULL THEN 'retained' \
               WHEN work IN ('suspending', 'suspended') THEN work ELSE state END, \
               max(cpu, coalesce(runs_cpu, 0)), max(memory_gb, coalesce(runs_memory_gb, 0)), \
               storage_gb + suspend_gb + \
               (SELECT coalesce(sum(reserved_gb), 0) FROM snapshot WHERE snapshot.vm = vm.id), \
               quarantined_at IS NOT NULL, operation FROM vm ORDER BY id";
    all(db, sql, |row| {
        Ok(Row {
            id: row.get(0)?,
            owner: row.get(1)?,
            name: row.get(2)?,
            state: row.get(3)?,
            cpu: row.get(4)?,
            memory: row.get(5)?,
            storage: row.get(6)?,
            quarantined: row.get(7)?,
            operation: row.get(8)?,
        })
    })
}

fn events(db: &Connection) -> rusqlite::Result<Vec<Event>> {
    let sql =
        "SELECT vm, number, from_stage, to_stage, steady, delivered FROM event ORDER BY vm, number";
    let number = |row: &rusqlite::Row<'_>, column| -> rusqlite::Result<u64> {
        let number: i64 = row.get(column)?;
        Ok(u64::try_from(number).unwrap_or_else(|_| panic!("{number} in column {column} of event")))
    };
    all(db, sql, |row| {
        Ok(Event {
            vm: row.get(0)?,
            number: number(row, 1)?,
            from: row.get(2)?,
            to: row.get(3)?,
            steady: number(row, 4)?,
            delivered: number(row, 5)?,
        })
    })
}

fn all<T>(
    db: &Connection,
    sql: &str,
    read: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    db.prepare(sql)?.query_map([], read)?.collect()
}
