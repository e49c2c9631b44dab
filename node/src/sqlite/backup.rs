//! Copies of a database that its own program keeps, beside it in `backups/`.
//!
//! A copy is made of a database that was found sound only, so damage never replaces a good one. It is
//! whole in itself: no `-wal` belongs to it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rusqlite::Connection;
use rusqlite::config::DbConfig;

use super::{SqliteError, check_sound, failed, open_read_only, user_version};
use crate::data_dir::private;

/// A new copy is due when the newest is as old as this.
const EVERY: Duration = Duration::from_secs(6 * 3600);
/// So many are kept: with [`EVERY`], those of a day.
const KEPT: usize = 4;

/// Where the copies of the database at `path` are.
#[must_use]
pub fn directory(path: &Path) -> PathBuf {
    path.with_file_name("backups")
}

/// The newest copy of the database at `path`, of those made on a timer.
#[must_use]
pub fn newest(path: &Path) -> Option<PathBuf> {
    numbered(path).pop().map(|(_, copy)| copy)
}

/// Whether it is time for another copy, by the age of the newest one.
#[must_use]
pub fn is_due(path: &Path) -> bool {
    let Some(newest) = newest(path) else { return true };
    let age = fs::metadata(newest)
        .and_then(|metadata| metadata.modified())
        .map(|made| SystemTime::now().duration_since(made));
    // One that is younger than now was made by another clock.
    !matches!(age, Ok(Ok(age)) if age < EVERY)
}

/// Copies the database at `path`, which may be in use, and removes the oldest copies beyond four. Returns
/// where the copy is.
///
/// # Errors
/// [`SqliteError`]; [`SqliteError::Damaged`] when the database is. The older copies are all there then.
pub fn make(path: &Path) -> Result<PathBuf, SqliteError> {
    let mut copies = numbered(path);
    let number = copies.last().map_or(1, |(number, _)| number.saturating_add(1));
    let copy = directory(path).join(format!("{}-{number}.db", stem(path)));
    write(path, &open_read_only(path)?, &copy)?;
    copies.push((number, copy.clone()));
    let beyond = copies.len().saturating_sub(KEPT);
    for (_, old) in copies.drain(..beyond) {
        // One too many does no harm; the next time tries again.
        let _ = fs::remove_file(old);
    }
    Ok(copy)
}

/// Copies a database that is about to be migrated to version `known`, once for each version that it is taken
/// from: whoever goes back to the older release needs it.
pub(crate) fn make_before_upgrade(path: &Path, known: usize) -> Result<(), SqliteError> {
    if !fs::metadata(path).is_ok_and(|metadata| metadata.len() > 0) {
        return Ok(());
    }
    let connection = open_read_only(path)?;
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
        .map_err(failed(path))?;
    let found = user_version(&connection).map_err(failed(path))?;
    let is_older = found > 0 && usize::try_from(found).is_ok_and(|found| found < known);
    let copy = directory(path).join(format!("{}-schema-{found}.db", stem(path)));
    if !is_older || copy.exists() {
        return Ok(());
    }
    write(path, &connection, &copy)
}

fn write(path: &Path, connection: &Connection, copy: &Path) -> Result<(), SqliteError> {
    check_sound(connection, path)?;
    let directory = directory(path);
    let unfinished = copy.with_extension("new");
    let io = |source| SqliteError::Io { path: copy.to_owned(), source };
    prepare(&directory, &unfinished).map_err(io)?;
    let vacuumed =
        connection.execute("VACUUM INTO ?1", [unfinished.to_string_lossy()]).map_err(failed(copy));
    let finished = vacuumed.and_then(|_| {
        File::open(&unfinished)
            .and_then(|file| file.sync_all())
            .and_then(|()| fs::rename(&unfinished, copy))
            .and_then(|()| File::open(&directory)?.sync_all())
            .map_err(io)
    });
    if finished.is_err() {
        let _ = fs::remove_file(&unfinished);
    }
    finished
}

/// The file has to be there beforehand, so that nobody else can ever read it.
fn prepare(directory: &Path, file: &Path) -> io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt as _;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    #[cfg(not(unix))]
    fs::create_dir_all(directory)?;
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    private(OpenOptions::new().write(true).create_new(true)).open(file).map(drop)
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// The copies made on a timer with their numbers, oldest first.
fn numbered(path: &Path) -> Vec<(u64, PathBuf)> {
    let stem = stem(path);
    let mut copies: Vec<(u64, PathBuf)> = fs::read_dir(directory(path))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            let rest = name.to_str()?.strip_prefix(&stem)?.strip_prefix('-')?;
            Some((rest.strip_suffix(".db")?.parse().ok()?, entry.path()))
        })
        .collect();
    copies.sort_unstable();
    copies
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::sqlite::{Durability, open};

    const SCHEMA: &[&str] = &["CREATE TABLE t (x INTEGER) STRICT;"];

    fn count(path: &Path) -> i64 {
        let connection = open_read_only(path).unwrap();
        connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap()
    }

    #[test]
    fn the_newest_few_are_kept_and_each_is_the_database_of_its_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        let connection = open(&path, SCHEMA, Durability::Full).unwrap();
        assert!(is_due(&path));
        for x in 0..10 {
            connection.execute("INSERT INTO t VALUES (?1)", [x]).unwrap();
            assert_eq!(count(&make(&path).unwrap()), x + 1);
            assert!(!is_due(&path));
        }
        let kept: Vec<u64> = numbered(&path).into_iter().map(|(number, _)| number).collect();
        assert_eq!(kept, [7, 8, 9, 10]);
        assert_eq!(fs::read_dir(directory(&path)).unwrap().count(), 4);

        let copy = newest(&path).unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt as _;
            assert_eq!(fs::metadata(&copy).unwrap().mode() & 0o777, 0o600);
            assert_eq!(fs::metadata(directory(&path)).unwrap().mode() & 0o777, 0o700);
        }
        // As it is restored.
        let other = dir.path().join("other.db");
        fs::copy(copy, &other).unwrap();
        drop(open(&other, SCHEMA, Durability::Full).unwrap());
        assert_eq!(count(&other), 10);
    }

    #[test]
    fn an_old_one_and_one_of_another_clock_are_due() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        drop(open(&path, SCHEMA, Durability::Full).unwrap());
        let copy = File::options().write(true).open(make(&path).unwrap()).unwrap();
        let now = SystemTime::now();
        for (made, due) in [(now - EVERY / 2, false), (now - EVERY, true), (now + EVERY, true)] {
            copy.set_modified(made).unwrap();
            assert_eq!(is_due(&path), due, "{made:?}");
        }
    }

    #[test]
    fn a_damaged_database_replaces_no_copy() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        let connection = open(&path, SCHEMA, Durability::Full).unwrap();
        connection.execute_batch("BEGIN").unwrap();
        for x in 0..2000 {
            connection.execute("INSERT INTO t VALUES (?1)", [x]).unwrap();
        }
        connection.execute_batch("COMMIT").unwrap();
        drop(connection);
        let copy = make(&path).unwrap();
        let before = fs::read(&copy).unwrap();
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2 / 4096 * 4096;
        bytes[middle..middle + 4096].fill(0x5a);
        fs::write(&path, bytes).unwrap();
        assert!(matches!(make(&path), Err(SqliteError::Damaged { .. })));
        assert_eq!(newest(&path).unwrap(), copy);
        assert_eq!(fs::read(&copy).unwrap(), before);
        assert_eq!(fs::read_dir(directory(&path)).unwrap().count(), 1);
    }

    #[test]
    fn what_is_upgraded_is_copied_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        make_before_upgrade(&path, 1).unwrap();
        drop(open(&path, SCHEMA, Durability::Full).unwrap());
        make_before_upgrade(&path, 1).unwrap();
        assert!(!directory(&path).exists());
        for _ in 0..2 {
            make_before_upgrade(&path, 2).unwrap();
            let copies: Vec<_> = fs::read_dir(directory(&path)).unwrap().flatten().collect();
            assert_eq!(copies.len(), 1);
            assert_eq!(copies[0].file_name(), "state-schema-1.db");
        }
        assert_eq!(newest(&path), None);
    }
}
