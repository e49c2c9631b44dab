//! The tables. A migration is never changed once it is released.

/// The migrations, in order.
pub(super) const MIGRATIONS: &[&str] = &["
CREATE TABLE rentals (
  row             INTEGER PRIMARY KEY,
  name            TEXT NOT NULL,
  state           TEXT NOT NULL CHECK (state IN ('pending', 'active', 'abandoned')),
  provider_id     TEXT NOT NULL,
  provider_name   TEXT NOT NULL,
  endpoints       TEXT NOT NULL,             -- JSON, as advertised
  idempotency_key TEXT NOT NULL UNIQUE,
  request         TEXT NOT NULL,             -- the exact body
  cpu             INTEGER NOT NULL,
  memory          INTEGER NOT NULL,          -- GiB
  storage         INTEGER NOT NULL,          -- GiB
  usd_micro_month INTEGER,
  isolation       TEXT,
  image           TEXT,
  vm_id           TEXT,
  operation_id    TEXT,
  ssh_host        TEXT,
  ssh_port        INTEGER,
  ssh_user        TEXT,
  host_key        TEXT,
  identity        TEXT,                      -- what ssh -i is given
  status          TEXT NOT NULL,
  status_at       INTEGER NOT NULL,          -- microseconds since the Unix epoch
  created_at      INTEGER NOT NULL,
  problem         TEXT                       -- why it does not work, in the provider's words
) STRICT;
CREATE UNIQUE INDEX rentals_name ON rentals (name) WHERE state <> 'abandoned';
-- What a person has been told once.
CREATE TABLE notices (text TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
", "
-- The highest sequence of each provider's advertisement that was seen: an older one is not believed.
CREATE TABLE advertised (
  provider_id TEXT PRIMARY KEY,
  sequence    INTEGER NOT NULL,
  digest      TEXT NOT NULL,
  seen_at     INTEGER NOT NULL               -- microseconds since the Unix epoch
) STRICT, WITHOUT ROWID;
CREATE INDEX advertised_age ON advertised (seen_at);
", "
ALTER TABLE rentals ADD COLUMN agreed TEXT;  -- JSON: what the provider promised
", "
ALTER TABLE rentals ADD COLUMN lease TEXT;         -- JSON: as the provider last told it
ALTER TABLE rentals ADD COLUMN asked_at INTEGER;   -- when the create request was last sent; null: never
ALTER TABLE rentals ADD COLUMN settled_at INTEGER; -- when a create that was cut off was found to have made it
ALTER TABLE rentals ADD COLUMN silent_at INTEGER;  -- when its provider last did not say what became of it
UPDATE rentals SET asked_at = created_at;
-- VMs that were destroyed, so that their histories can still be asked for.
CREATE TABLE gone (
  vm_id         TEXT PRIMARY KEY,
  name          TEXT NOT NULL,
  provider_id   TEXT NOT NULL,
  provider_name TEXT NOT NULL,
  endpoints     TEXT NOT NULL,                     -- JSON, as advertised
  gone_at       INTEGER NOT NULL                   -- microseconds since the Unix epoch
) STRICT, WITHOUT ROWID;
", "
ALTER TABLE rentals ADD COLUMN cloned_from TEXT;   -- whose clone it is; null: created anew
ALTER TABLE rentals ADD COLUMN backend TEXT;       -- all below: as the provider last told it
ALTER TABLE rentals ADD COLUMN accel TEXT;
ALTER TABLE rentals ADD COLUMN suspended INTEGER NOT NULL DEFAULT 0;
ALTER TABLE rentals ADD COLUMN abilities TEXT;     -- JSON
ALTER TABLE rentals ADD COLUMN image_digest TEXT;
"];
