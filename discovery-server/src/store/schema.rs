//! The tables, as steps from one version to the next. A step is never changed once it was released.

/// The steps; see `golem_vm_node::sqlite::open`.
pub(super) const MIGRATIONS: &[&str] = &[
    // Times are microseconds since the Unix epoch. `content` is the envelope, or the unsigned
    // advertisement, as JSON; a row without it is a grave, which keeps the last sequence.
    "CREATE TABLE advertisements (
        provider_id TEXT PRIMARY KEY,
        revision INTEGER NOT NULL UNIQUE,
        sequence INTEGER,
        digest TEXT,
        state TEXT NOT NULL CHECK (state IN ('live', 'withdrawn', 'expired')),
        content TEXT,
        observed_address TEXT NOT NULL,
        created_at INTEGER NOT NULL,
        updated_at INTEGER NOT NULL,
        last_seen INTEGER NOT NULL,
        expires_at INTEGER NOT NULL,
        CHECK ((sequence IS NULL) = (digest IS NULL)),
        CHECK ((state = 'live') = (content IS NOT NULL))
    ) STRICT;
    CREATE INDEX advertisements_by_expiry ON advertisements (expires_at) WHERE state = 'live';
    CREATE INDEX advertisements_graves ON advertisements (last_seen) WHERE state <> 'live';
    -- One row: the revision of the last change. A counter of its own, because the row that had the
    -- highest revision may be deleted.
    CREATE TABLE feed (
        only INTEGER PRIMARY KEY CHECK (only = 1),
        revision INTEGER NOT NULL
    ) STRICT;
    INSERT INTO feed (only, revision) VALUES (1, 0);",
    // Where an entry comes from, as it is counted. Rows of before have none until their provider
    // is heard of again, which takes minutes.
    "ALTER TABLE advertisements ADD COLUMN address TEXT;
    ALTER TABLE advertisements ADD COLUMN network TEXT NOT NULL DEFAULT '';
    CREATE INDEX advertisements_by_address ON advertisements (address, state, expires_at);
    CREATE INDEX advertisements_by_network ON advertisements (network, created_at) WHERE state = 'live';
    CREATE INDEX advertisements_graves_by_network ON advertisements (network, last_seen) WHERE state <> 'live';",
];
