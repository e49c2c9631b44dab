//! Opening a SQLite database the way every program here needs it: private, durable, migrated, and
//! never one that a newer release has written.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use crate::data_dir::private;

/// How long a statement waits for another process's lock before it gives up.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two tries to switch to write-ahead logging.
const WAL_PAUSE: Duration = Duration::from_millis(10);

/// What a commit survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// A power cut (`synchronous=FULL`): what was acknowledged is there. For services.
    Full,
    /// A crash of the process, and mostly a power cut (`synchronous=NORMAL`): the last commits may
    /// be lost, never the database. For what can be asked for again.
    Normal,
}

/// Why a statement failed, sorted by what a person can do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// Another process or connection has it locked.
    Locked,
    /// The file is damaged, or is no SQLite database.
    Damaged,
    /// The disk is full.
    DiskFull,
    /// The file or its directory can't be written or opened.
    Access,
    /// A constraint of the schema (unique, foreign key, check) refused the data.
    Constraint,
    /// Anything else.
    Other,
}

impl FailureKind {
    /// The kind of `error`.
    #[must_use]
    pub fn of(error: &rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(
                ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::FileLockingProtocolFailed,
            ) => Self::Locked,
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Damaged,
            Some(ErrorCode::DiskFull) => Self::DiskFull,
            Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
                Self::Access
            }
            Some(ErrorCode::ConstraintViolation) => Self::Constraint,
            _ => Self::Other,
        }
    }

    /// What to do about it.
    #[must_use]
    pub const fn advice(self) -> &'static str {
        match self {
            Self::Locked => "another process is using it; stop that one and try again",
            Self::Damaged => {
                "it is damaged or no SQLite database; restore it from a backup, or move it away"
            }
            Self::DiskFull => "the disk is full; make room and try again",
            Self::Access => {
                "it can't be opened for writing; look at its owner and mode, and its directory's"
            }
            Self::Constraint => "the data contradict the schema",
            Self::Other => "an unexpected failure of the database",
        }
    }
}

/// Why a database can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum SqliteError {
    /// A newer release has written it. It was not changed.
    #[error(
        "{} was written by a newer release (schema {found}, this one knows up to {known}); \
         start the newer release, or use another data directory. It was left as it is",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema version.
        found: i64,
        /// The newest this program knows.
        known: usize,
    },
    /// It holds another program's tables. It was not changed.
    #[error("{} holds another program's tables; name another file. It was left as it is", .0.display())]
    Foreign(PathBuf),
    /// SQLite failed.
    #[error("can't use the database {}: {} ({source})", path.display(), kind.advice())]
    Failed {
        /// The file.
        path: PathBuf,
        /// What kind of failure.
        kind: FailureKind,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// The file can't be created or protected.
    #[error("can't create the database {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
}

impl SqliteError {
    /// The kind of failure, if SQLite failed.
    #[must_use]
    pub const fn kind(&self) -> Option<FailureKind> {
        match self {
            Self::Failed { kind, .. } => Some(*kind),
            _ => None,
        }
    }
}

fn failed(path: &Path) -> impl Fn(rusqlite::Error) -> SqliteError + '_ {
    |source| SqliteError::Failed { path: path.to_owned(), kind: FailureKind::of(&source), source }
}

/// Opens the database at `path` for writing, creating it (mode 0600) if it is not there, and
/// brings its schema up to date.
///
/// `migrations[n]` takes the schema from version n to n+1; each is one or more statements, is never
/// changed once released, and runs in one exclusive transaction together with its version number
/// (`PRAGMA user_version`). The connection has WAL, foreign keys and a busy timeout of 5 s.
///
/// # Errors
/// [`SqliteError`]; with [`SqliteError::Newer`] and [`SqliteError::Foreign`] nothing was changed.
pub fn open(
    path: &Path,
    migrations: &[&str],
    durability: Durability,
) -> Result<Connection, SqliteError> {
    let io = |source| SqliteError::Io { path: path.to_owned(), source };
    // SQLite gives its -wal and -shm files the mode of the main file.
    private(OpenOptions::new().read(true).write(true).create(true).truncate(false))
        .open(path)
        .map_err(io)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(io)?;
    }
    let failed = failed(path);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags).map_err(&failed)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(&failed)?;
    // Before anything that writes, journal_mode included; in a transaction, so that the version and
    // the tables are of one moment while another process migrates.
    let moment = connection.unchecked_transaction().map_err(&failed)?;
    check_version(&moment, path, migrations.len())?;
    moment.rollback().map_err(&failed)?;

    enter_wal(&connection).map_err(&failed)?;
    let synchronous = match durability {
        Durability::Full => "FULL",
        Durability::Normal => "NORMAL",
    };
    connection.pragma_update(None, "synchronous", synchronous).map_err(&failed)?;
    connection.pragma_update(None, "foreign_keys", true).map_err(&failed)?;
    connection.set_prepared_statement_cache_capacity(128);
    migrate(&mut connection, path, migrations)?;
    Ok(connection)
}

/// Switches to write-ahead logging. Two that do this to a new file at once would wait for each
/// other for ever, so SQLite refuses one of them without the busy timeout; it tries again here.
fn enter_wal(connection: &Connection) -> rusqlite::Result<()> {
    let began = Instant::now();
    loop {
        match connection.pragma_update(None, "journal_mode", "WAL") {
            Err(error)
                if FailureKind::of(&error) == FailureKind::Locked
                    && began.elapsed() < BUSY_TIMEOUT =>
            {
                std::thread::sleep(WAL_PAUSE);
            }
            other => return other,
        }
    }
}

/// Opens the database at `path` for reading only. It must exist.
///
/// # Errors
/// [`SqliteError::Failed`].
pub fn open_read_only(path: &Path) -> Result<Connection, SqliteError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(failed(path))?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(failed(path))?;
    connection.set_prepared_statement_cache_capacity(128);
    Ok(connection)
}

/// Reads a database URL: `sqlite:///relative.db` (relative to the working directory) or
/// `sqlite:////absolute.db`, as SQLAlchemy writes them.
///
/// # Errors
/// A sentence that says which forms are taken.
pub fn parse_url(url: &str) -> Result<PathBuf, String> {
    let forms = "write sqlite:///relative.db or sqlite:////absolute.db";
    let path = url.strip_prefix("sqlite:///").ok_or_else(|| forms.to_owned())?;
    if path.is_empty() || path == "/" || path == ":memory:" {
        return Err(format!("it names no file; {forms}"));
    }
    if path.contains(['?', '#', '%']) {
        return Err(format!("options and escapes are not known; {forms}"));
    }
    Ok(PathBuf::from(path))
}

fn user_version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

fn check_version(connection: &Connection, path: &Path, known: usize) -> Result<i64, SqliteError> {
    let failed = failed(path);
    let found = user_version(connection).map_err(&failed)?;
    if usize::try_from(found).is_ok_and(|found| found > known) {
        return Err(SqliteError::Newer { path: path.to_owned(), found, known });
    }
    let objects: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(&failed)?;
    if found < 0 || (found == 0 && objects > 0) {
        return Err(SqliteError::Foreign(path.to_owned()));
    }
    Ok(found)
}

fn migrate(
    connection: &mut Connection,
    path: &Path,
    migrations: &[&str],
) -> Result<(), SqliteError> {
    let failed = failed(path);
    if usize::try_from(user_version(connection).map_err(&failed)?) == Ok(migrations.len()) {
        return Ok(());
    }
    let transaction =
        connection.transaction_with_behavior(TransactionBehavior::Exclusive).map_err(&failed)?;
    // Asked again under the lock: another process may have migrated meanwhile.
    let found = check_version(&transaction, path, migrations.len())?;
    for migration in migrations.iter().skip(usize::try_from(found).unwrap_or_default()) {
        transaction.execute_batch(migration).map_err(&failed)?;
    }
    let version = i64::try_from(migrations.len()).unwrap_or(i64::MAX);
    transaction.pragma_update(None, "user_version", version).map_err(&failed)?;
    transaction.commit().map_err(&failed)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const FIRST: &str = "CREATE TABLE a (x INTEGER NOT NULL UNIQUE) STRICT;";
    const SECOND: &str = "CREATE TABLE b (y TEXT) STRICT; INSERT INTO a VALUES (1);";

    fn path() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        (dir, path)
    }

    #[test]
    fn it_is_private_durable_and_migrates_step_by_step() {
        let (_dir, path) = path();
        drop(open(&path, &[FIRST], Durability::Full).unwrap());
        let connection = open(&path, &[FIRST, SECOND], Durability::Full).unwrap();
        let count: i64 =
            connection.query_row("SELECT count(*) FROM a", [], |row| row.get(0)).unwrap();
        assert_eq!(count, 1);
        let text = |pragma: &str| -> String {
            connection
                .query_row(&format!("PRAGMA {pragma}"), [], |row| {
                    row.get::<_, rusqlite::types::Value>(0)
                })
                .map(|value| match value {
                    rusqlite::types::Value::Text(text) => text,
                    other => format!("{other:?}"),
                })
                .unwrap()
        };
        assert_eq!(text("journal_mode"), "wal");
        assert_eq!(text("synchronous"), "Integer(2)");
        assert_eq!(text("foreign_keys"), "Integer(1)");
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt as _;
            for suffix in ["", "-wal", "-shm"] {
                let file = PathBuf::from(format!("{}{suffix}", path.display()));
                assert_eq!(
                    std::fs::metadata(&file).unwrap().mode() & 0o777,
                    0o600,
                    "{}",
                    file.display()
                );
            }
        }
        let reader = open_read_only(&path).unwrap();
        assert!(reader.execute("INSERT INTO a VALUES (2)", []).is_err());
    }

    #[test]
    fn a_newer_schema_is_refused_and_left_as_it_is() {
        let (_dir, path) = path();
        drop(open(&path, &[FIRST, SECOND], Durability::Full).unwrap());
        let before = std::fs::read(&path).unwrap();
        let error = open(&path, &[FIRST], Durability::Full).unwrap_err();
        assert!(matches!(error, SqliteError::Newer { found: 2, known: 1, .. }), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }

    #[test]
    fn a_migration_that_fails_changes_nothing() {
        let (_dir, path) = path();
        drop(open(&path, &[FIRST], Durability::Full).unwrap());
        let bad = "CREATE TABLE c (z TEXT) STRICT; INSERT INTO nowhere VALUES (1);";
        open(&path, &[FIRST, bad], Durability::Full).unwrap_err();
        let connection = open(&path, &[FIRST, SECOND], Durability::Full).unwrap();
        let tables: i64 = connection
            .query_row("SELECT count(*) FROM sqlite_schema WHERE name='c'", [], |row| row.get(0))
            .unwrap();
        assert_eq!(tables, 0);
    }

    #[test]
    fn other_files_are_told_apart() {
        let (dir, path) = path();
        std::fs::write(&path, vec![b'x'; 4096]).unwrap();
        assert_eq!(
            open(&path, &[FIRST], Durability::Full).unwrap_err().kind(),
            Some(FailureKind::Damaged)
        );

        let foreign = dir.path().join("foreign.db");
        Connection::open(&foreign).unwrap().execute_batch("CREATE TABLE theirs (x)").unwrap();
        assert!(matches!(open(&foreign, &[FIRST], Durability::Full), Err(SqliteError::Foreign(_))));

        let nowhere = dir.path().join("no/such/dir.db");
        assert!(matches!(open(&nowhere, &[FIRST], Durability::Full), Err(SqliteError::Io { .. })));
    }

    #[test]
    fn openers_at_once_migrate_once() {
        let (_dir, path) = path();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| open(&path, &[FIRST, SECOND], Durability::Full).unwrap());
            }
        });
    }

    #[test]
    fn both_forms_of_url_are_read() {
        assert_eq!(parse_url("sqlite:///discovery.db").unwrap(), PathBuf::from("discovery.db"));
        assert_eq!(parse_url("sqlite:////var/lib/d.db").unwrap(), PathBuf::from("/var/lib/d.db"));
        for bad in [
            "",
            "discovery.db",
            "sqlite://x.db",
            "sqlite:///",
            "sqlite:////",
            "sqlite:///:memory:",
            "postgres://x/y",
            "sqlite:///a?mode=ro",
        ] {
            assert!(parse_url(bad).is_err(), "{bad}");
        }
    }
}
