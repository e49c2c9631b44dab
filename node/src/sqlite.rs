//! Opening a SQLite database the way every program here needs it: private, durable, migrated, and
//! never one that a newer release has written or that is damaged. What is refused stays as it is, byte
//! by byte.

pub mod backup;
mod log;

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
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
            Self::Locked => {
                "another process has it locked ('fuser -v' on the file names it); stop that one and try again"
            }
            Self::Damaged => {
                "it is damaged or no SQLite database; start the program again, which says how to go on"
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
    /// It is damaged, or no SQLite database. It was not changed.
    #[error("the database {} is damaged: {what}. It was left as it is. {}", path.display(), how_to_go_on(path, backup.as_deref()))]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        what: String,
        /// The newest copy that its program has made.
        backup: Option<PathBuf>,
    },
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
            Self::Damaged { .. } => Some(FailureKind::Damaged),
            _ => None,
        }
    }
}

fn how_to_go_on(path: &Path, backup: Option<&Path>) -> String {
    let path = path.display();
    match backup {
        Some(backup) => format!(
            "To go on with its newest backup, put that in its place: \
             mkdir {path}.damaged && mv {path} {path}-* {path}.damaged/; cp {} {path}",
            backup.display()
        ),
        None => format!(
            "Restore it from a backup, or move it away together with {path}-wal and {path}-shm"
        ),
    }
}

fn failed(path: &Path) -> impl Fn(rusqlite::Error) -> SqliteError + '_ {
    |source| match FailureKind::of(&source) {
        FailureKind::Damaged => damaged(path, source.to_string()),
        kind => SqliteError::Failed { path: path.to_owned(), kind, source },
    }
}

fn damaged(path: &Path, what: impl Into<String>) -> SqliteError {
    SqliteError::Damaged { path: path.to_owned(), what: what.into(), backup: backup::newest(path) }
}

/// Opens the database at `path` for writing, creating it (mode 0600) if it is not there, and
/// brings its schema up to date.
///
/// `migrations[n]` takes the schema from version n to n+1; each is one or more statements, is never
/// changed once released, and runs in one exclusive transaction together with its version number
/// (`PRAGMA user_version`). The connection has WAL, foreign keys and a busy timeout of 5 s.
///
/// # Errors
/// [`SqliteError`]; with [`SqliteError::Newer`], [`SqliteError::Foreign`] and [`SqliteError::Damaged`]
/// nothing was changed.
pub fn open(
    path: &Path,
    migrations: &[&str],
    durability: Durability,
) -> Result<Connection, SqliteError> {
    let io = |source| SqliteError::Io { path: path.to_owned(), source };
    check_not_emptied(path)?;
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
    // One that is refused keeps its log as well: it is not folded into it by closing.
    let keep_log = DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
    connection.set_db_config(keep_log, true).map_err(&failed)?;
    // Before anything that writes, journal_mode included; in a transaction, so that the version and
    // the tables are of one moment while another process migrates.
    let moment = connection.unchecked_transaction().map_err(&failed)?;
    check_version(&moment, path, migrations.len())?;
    check_sound(&moment, path)?;
    moment.rollback().map_err(&failed)?;
    connection.set_db_config(keep_log, false).map_err(&failed)?;

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

/// Refuses a database whose write-ahead log was damaged, which SQLite itself takes for one that ended
/// early. For a program that has the database for itself: others may be writing to the log.
///
/// # Errors
/// [`SqliteError::Damaged`], [`SqliteError::Io`].
pub(crate) fn check_log(path: &Path) -> Result<(), SqliteError> {
    match std::fs::read(log::path_of(path)) {
        Ok(bytes) => log::damage(&bytes).map_or(Ok(()), |what| Err(damaged(path, what))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(SqliteError::Io { path: log::path_of(path), source }),
    }
}

/// Makes sure that the database can be written to now: that no other process holds it.
///
/// # Errors
/// [`SqliteError::Failed`] of the kind [`FailureKind::Locked`] after 5 s.
pub(crate) fn check_writable(connection: &Connection, path: &Path) -> Result<(), SqliteError> {
    connection.execute_batch("BEGIN IMMEDIATE; ROLLBACK").map_err(failed(path))
}

/// An empty file is a new database to SQLite, which then removes the log of the one that was there.
fn check_not_emptied(path: &Path) -> Result<(), SqliteError> {
    let holds_something =
        |path: &Path| std::fs::metadata(path).is_ok_and(|metadata| metadata.len() > 0);
    if holds_something(path)
        || !(holds_something(&log::path_of(path)) || backup::newest(path).is_some())
    {
        return Ok(());
    }
    let what = if path.exists() { "it is empty" } else { "it is not there" };
    Err(damaged(path, format!("{what}, and its log or a backup of it is")))
}

/// Looks through all of it for what can't be.
fn check_sound(connection: &Connection, path: &Path) -> Result<(), SqliteError> {
    let found: String = connection
        .query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))
        .map_err(failed(path))?;
    if found == "ok" { Ok(()) } else { Err(damaged(path, found.replace('\n', " "))) }
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

    /// A database and its log, as a process leaves them that is killed.
    fn killed(dir: &Path, rows: i64) -> (Vec<u8>, Vec<u8>) {
        let path = dir.join("living.db");
        let connection = open(&path, &[FIRST, SECOND], Durability::Normal).unwrap();
        for x in 2..rows {
            connection.execute("INSERT INTO a VALUES (?1)", [x]).unwrap();
            if x == rows / 2 {
                connection.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(())).unwrap();
            }
        }
        (std::fs::read(&path).unwrap(), std::fs::read(log::path_of(&path)).unwrap())
    }

    #[test]
    fn what_is_refused_stays_as_it_is_and_so_does_its_log() {
        let (dir, path) = path();
        let (database, wal) = killed(dir.path(), 2000);
        let mut holed = database.clone();
        holed[16384..20480].fill(0x5a);
        let mut torn = wal.clone();
        torn[32 + 4120 + 100] ^= 1;
        let cut = &database[..database.len() / 2];
        let damage: &[(&[u8], &[u8])] = &[
            (&holed, &wal),
            (&holed, &[]),
            (cut, &[]),
            (&database[..100], &wal),
            (&[], &wal),
            (&database, &torn),
            (b"no database at all", &[]),
        ];
        let open = |migrations| {
            check_log(&path)?;
            open(&path, migrations, Durability::Full)
        };
        for (number, (database, wal)) in damage.iter().enumerate() {
            std::fs::write(&path, database).unwrap();
            std::fs::write(log::path_of(&path), wal).unwrap();
            let refused = open(&[FIRST, SECOND]).err();
            let error = refused.unwrap_or_else(|| panic!("number {number} was opened"));
            assert_eq!(error.kind(), Some(FailureKind::Damaged), "{number}: {error}");
            assert!(error.to_string().contains("state.db"), "{error}");
            assert_eq!(&std::fs::read(&path).unwrap(), database, "{number}");
            assert_eq!(&std::fs::read(log::path_of(&path)).unwrap(), wal, "{number}");
        }
        // Of a newer release, and its last commits are in the log only.
        std::fs::write(&path, &database).unwrap();
        std::fs::write(log::path_of(&path), &wal).unwrap();
        assert!(matches!(open(&[FIRST]), Err(SqliteError::Newer { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), database);
        assert_eq!(std::fs::read(log::path_of(&path)).unwrap(), wal);
        let count: i64 = open(&[FIRST, SECOND])
            .unwrap()
            .query_row("SELECT count(*) FROM a", [], |row| row.get(0))
            .unwrap();
        assert_eq!(count, 1999);
    }

    #[test]
    fn the_backup_is_named_and_the_way_back_works() {
        let (dir, path) = path();
        drop(open(&path, &[FIRST, SECOND], Durability::Full).unwrap());
        let copy = backup::make(&path).unwrap();
        for damage in [
            "printf '' >DB",
            "rm DB",
            "printf x | dd of=DB conv=notrunc bs=1 seek=4100; printf x >DB-wal",
        ] {
            let shell = |line: &str| {
                let done = std::process::Command::new("sh").args(["-c", line]).output().unwrap();
                assert!(done.status.success(), "{line}: {done:?}");
            };
            shell(&damage.replace("DB", &path.display().to_string()));
            let error = open(&path, &[FIRST, SECOND], Durability::Full).unwrap_err().to_string();
            assert!(error.contains(&copy.display().to_string()), "{error}");
            let (_, line) = error.split_once("place: ").unwrap();
            let line = if path.exists() {
                line.to_owned()
            } else {
                format!("touch {}; {line}", path.display())
            };
            shell(&line);
            drop(open(&path, &[FIRST, SECOND], Durability::Full).unwrap());
            std::fs::remove_dir_all(format!("{}.damaged", path.display())).unwrap();
        }
        drop(dir);
    }

    #[test]
    fn one_that_another_process_holds_is_told() {
        let (_dir, path) = path();
        let holder = open(&path, &[FIRST], Durability::Full).unwrap();
        holder.execute_batch("BEGIN EXCLUSIVE").unwrap();
        let second = open(&path, &[FIRST], Durability::Full).unwrap();
        second.busy_timeout(Duration::ZERO).unwrap();
        let error = check_writable(&second, &path).unwrap_err();
        assert_eq!(error.kind(), Some(FailureKind::Locked), "{error}");
        holder.execute_batch("ROLLBACK").unwrap();
        check_writable(&second, &path).unwrap();
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
