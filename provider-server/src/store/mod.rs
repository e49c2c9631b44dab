//! The provider's database: VMs, their ports and operations, images, and what was advertised.
//!
//! Only this module knows SQL. It implements the traits that the domain needs, and knows neither
//! HTTP nor backends.

mod advertisements;
mod anchor;
mod books;
mod changes;
mod columns;
mod events;
mod images;
mod ledger;
mod life;
mod operations;
mod orphans;
mod vms;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use golem_vm_node::clock::Clock;
use golem_vm_node::sqlite::{self, Durability, SqliteError};
use golem_vm_node::store::Store;
use golem_vm_protocol::time::Timestamp;

use crate::steady::{Anchor, AnchoredClock, SteadyClock, SteadyTime, ThisMachine, Uptime};
use crate::vm::VmError;

/// One step each from an older database to this one. Only ever appended to.
const MIGRATIONS: &[&str] = &["
    CREATE TABLE vm (
        id               TEXT PRIMARY KEY,
        owner            TEXT NOT NULL,
        name             TEXT NOT NULL,
        state            TEXT NOT NULL CHECK (state IN
            ('creating', 'starting', 'running', 'stopping', 'stopped', 'destroying', 'error', 'failed')),
        message          TEXT,
        code             TEXT,
        cpu              INTEGER NOT NULL,
        memory_gb        INTEGER NOT NULL,
        storage_gb       INTEGER NOT NULL,
        image            TEXT NOT NULL,
        image_digest     TEXT NOT NULL,
        backend          TEXT NOT NULL,
        isolation        TEXT NOT NULL,
        core_month       INTEGER NOT NULL,
        gb_ram_month     INTEGER NOT NULL,
        gb_storage_month INTEGER NOT NULL,
        host_key_private TEXT NOT NULL,
        host_key         TEXT NOT NULL,
        authorized_keys  TEXT NOT NULL,
        operation        TEXT NOT NULL,
        created_at       INTEGER NOT NULL,
        updated_at       INTEGER NOT NULL
    ) STRICT;
    -- A failed VM gives its name back.
    CREATE UNIQUE INDEX vm_name ON vm (owner, name) WHERE state <> 'failed';

    CREATE TABLE port (
        host_port  INTEGER PRIMARY KEY,
        vm         TEXT NOT NULL REFERENCES vm (id) ON DELETE CASCADE,
        guest_port INTEGER NOT NULL,
        protocol   TEXT NOT NULL,
        purpose    TEXT NOT NULL
    ) STRICT;
    CREATE UNIQUE INDEX port_purpose ON port (vm, purpose);

    -- Outlives its VM: whoever repeats a request has to find it.
    CREATE TABLE operation (
        id              TEXT PRIMARY KEY,
        vm              TEXT NOT NULL,
        vm_public_id    TEXT NOT NULL,
        owner           TEXT NOT NULL,
        idempotency_key TEXT,
        fingerprint     TEXT,
        status          TEXT NOT NULL CHECK (status IN ('creating', 'ready', 'failed')),
        phase           TEXT,
        code            TEXT,
        message         TEXT,
        created_at      INTEGER NOT NULL,
        updated_at      INTEGER NOT NULL
    ) STRICT;
    CREATE UNIQUE INDEX operation_key ON operation (owner, idempotency_key) WHERE idempotency_key IS NOT NULL;
    CREATE INDEX operation_age ON operation (created_at);

    CREATE TABLE image (
        name       TEXT PRIMARY KEY,
        digest     TEXT NOT NULL,
        backend    TEXT NOT NULL,
        source     TEXT NOT NULL CHECK (source IN ('built', 'pulled')),
        created_at INTEGER NOT NULL
    ) STRICT;

    CREATE TABLE advertisement (
        sequence   INTEGER PRIMARY KEY,
        digest     TEXT NOT NULL,
        envelope   TEXT NOT NULL,
        created_at INTEGER NOT NULL
    ) STRICT;
", "
    ALTER TABLE vm ADD COLUMN egress TEXT NOT NULL DEFAULT 'internet' CHECK (egress IN ('internet', 'none'));
    ALTER TABLE vm ADD COLUMN quarantined_at INTEGER;
", "
    ALTER TABLE vm ADD COLUMN keys_pending INTEGER NOT NULL DEFAULT 0;
", "
    -- Instances that carry this provider's label and have no VM. By the provider's own steady clock, so
    -- that a clock that is set forward ends no period of grace; the time of day is for people.
    CREATE TABLE orphan (
        instance          TEXT PRIMARY KEY,
        backend           TEXT NOT NULL,
        first_seen_steady INTEGER NOT NULL,
        first_seen_at     INTEGER NOT NULL
    ) STRICT;
", "
    -- VMs from before there were leases end only by request.
    ALTER TABLE vm ADD COLUMN lease_seconds INTEGER;
    ALTER TABLE vm ADD COLUMN lease_expires INTEGER;
    ALTER TABLE vm ADD COLUMN lease_warned INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE vm ADD COLUMN on_expiry TEXT NOT NULL DEFAULT 'stop' CHECK (on_expiry IN ('stop', 'destroy'));
    ALTER TABLE vm ADD COLUMN grace_seconds INTEGER NOT NULL DEFAULT 86400;
    ALTER TABLE vm ADD COLUMN idle_seconds INTEGER;
    -- What comes after 'stopping'.
    ALTER TABLE vm ADD COLUMN next TEXT CHECK (next IN ('stopped', 'started', 'retained'));
    -- A stopped VM that has these is only kept.
    ALTER TABLE vm ADD COLUMN retained_since INTEGER;
    ALTER TABLE vm ADD COLUMN retained_until INTEGER;
    ALTER TABLE vm ADD COLUMN events INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE vm ADD COLUMN running_since INTEGER;
    ALTER TABLE vm ADD COLUMN delivered INTEGER NOT NULL DEFAULT 0;

    -- Outlives its VM.
    CREATE TABLE event (
        id           INTEGER PRIMARY KEY AUTOINCREMENT,
        vm           TEXT NOT NULL,
        number       INTEGER NOT NULL,
        vm_public_id TEXT NOT NULL,
        vm_name      TEXT NOT NULL,
        owner        TEXT NOT NULL,
        at           INTEGER NOT NULL,
        steady       INTEGER NOT NULL,
        kind         TEXT NOT NULL,
        from_stage   TEXT,
        to_stage     TEXT NOT NULL,
        actor        TEXT NOT NULL,
        cause        TEXT NOT NULL,
        detail       TEXT,
        cpu          INTEGER NOT NULL,
        memory_gb    INTEGER NOT NULL,
        storage_gb   INTEGER NOT NULL,
        delivered    INTEGER NOT NULL
    ) STRICT;
    CREATE UNIQUE INDEX event_number ON event (vm, number);
    CREATE INDEX event_name ON event (owner, vm_name);
    CREATE INDEX event_age ON event (steady);

    -- One row: see the module 'steady'.
    CREATE TABLE steady (
        one        INTEGER PRIMARY KEY CHECK (one = 1),
        boot_id    TEXT NOT NULL,
        since_boot INTEGER NOT NULL,
        steady     INTEGER NOT NULL,
        wall       INTEGER NOT NULL
    ) STRICT;
", "
    -- Several backends may have an image of one name.
    CREATE TABLE image_of_backend (
        name       TEXT NOT NULL,
        backend    TEXT NOT NULL,
        digest     TEXT NOT NULL,
        source     TEXT NOT NULL CHECK (source IN ('built', 'pulled')),
        created_at INTEGER NOT NULL,
        PRIMARY KEY (name, backend)
    ) STRICT;
    INSERT INTO image_of_backend (name, backend, digest, source, created_at)
        SELECT name, backend, digest, source, created_at FROM image;
    DROP TABLE image;
    ALTER TABLE image_of_backend RENAME TO image;
    -- What runs the processors of a virtual machine.
    ALTER TABLE vm ADD COLUMN accel TEXT;
", "
    -- What the words in 'state' and 'next' can't say: 'stopping' with 'suspending' or 'restoring', 'stopped' with
    -- 'suspended'.
    ALTER TABLE vm ADD COLUMN work TEXT CHECK (work IN ('suspending', 'suspended', 'restoring'));
    ALTER TABLE vm ADD COLUMN work_snapshot TEXT;
    -- Disk for its memory.
    ALTER TABLE vm ADD COLUMN suspend_gb INTEGER NOT NULL DEFAULT 0;
    -- What its instance has until it boots next, where that is not its size any more.
    ALTER TABLE vm ADD COLUMN runs_cpu INTEGER;
    ALTER TABLE vm ADD COLUMN runs_memory_gb INTEGER;
    ALTER TABLE vm ADD COLUMN resize_pending INTEGER NOT NULL DEFAULT 0;
    -- Its owner's own cloud-init, until it was made.
    ALTER TABLE vm ADD COLUMN user_data TEXT;
    ALTER TABLE vm ADD COLUMN clone_of TEXT;

    CREATE TABLE snapshot (
        vm              TEXT NOT NULL REFERENCES vm (id) ON DELETE CASCADE,
        name            TEXT NOT NULL,
        stage           TEXT NOT NULL CHECK (stage IN ('making', 'ready', 'removing')),
        created_at      INTEGER NOT NULL,
        with_memory     INTEGER NOT NULL,
        cpu             INTEGER NOT NULL,
        memory_gb       INTEGER NOT NULL,
        storage_gb      INTEGER NOT NULL,
        -- What it takes, where that is known, and what is reserved for it.
        bytes           INTEGER,
        reserved_gb     INTEGER NOT NULL,
        idempotency_key TEXT,
        PRIMARY KEY (vm, name)
    ) STRICT;
"];

/// A handle to the provider's database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ProviderStore {
    store: Store,
    clock: Arc<dyn Clock>,
    steady: AnchoredClock,
    /// From where steady time was gone on with.
    anchor: Option<Anchor>,
}

/// This moment, by both clocks.
#[derive(Debug, Clone, Copy)]
struct Moment {
    wall: Timestamp,
    steady: SteadyTime,
}

impl ProviderStore {
    /// Opens or makes the database at `path`, on this machine.
    ///
    /// # Errors
    /// When it can't be opened, is damaged, or comes from a newer release (then it is untouched).
    pub fn open(path: &Path, clock: Arc<dyn Clock>) -> Result<Self, SqliteError> {
        Self::open_on(path, clock, Arc::new(ThisMachine))
    }

    /// The same, on a machine that tells its own time.
    ///
    /// # Errors
    /// As for [`ProviderStore::open`].
    pub fn open_on(
        path: &Path,
        clock: Arc<dyn Clock>,
        machine: Arc<dyn Uptime>,
    ) -> Result<Self, SqliteError> {
        let store = Store::open(path, MIGRATIONS, Durability::Full)?;
        let anchor = anchor::read(&sqlite::open_read_only(path)?);
        let steady = AnchoredClock::resume(anchor.as_ref(), machine, clock.now_micros());
        Ok(Self { store, clock, steady, anchor })
    }

    /// The clock that leases are counted by.
    #[must_use]
    pub fn steady(&self) -> Arc<dyn SteadyClock> {
        Arc::new(self.steady.clone())
    }

    /// Copies the database if that is due; see [`Store::back_up_if_due`].
    ///
    /// # Errors
    /// When it is damaged, or the copy can't be written.
    pub async fn back_up_if_due(&self) -> Result<Option<PathBuf>, SqliteError> {
        self.store.back_up_if_due().await
    }

    /// Writes down which time it is, so that the next start goes on from there.
    ///
    /// # Errors
    /// When the database can't be written.
    pub async fn mark_time(&self) -> Result<(), VmError> {
        let anchor = self.steady.anchor(self.clock.now_micros());
        self.store.write("steady.mark", move |db| anchor::write(db, &anchor)).await
    }

    /// Finishes what was begun, and closes.
    pub async fn close(&self) {
        // Of no use after a failure to write, and nothing else can be done about it now.
        let _ = self.mark_time().await;
        self.store.shutdown().await;
    }

    fn moment(&self) -> Moment {
        Moment { wall: self.now(), steady: self.steady.now() }
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_unix_micros(i64::try_from(self.clock.now_micros()).unwrap_or(i64::MAX))
    }
}

#[cfg(test)]
pub(crate) mod tests;
