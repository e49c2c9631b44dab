//! The provider's database is locked by another program, damaged, or of a newer release.

use std::fs;
use std::path::{Path, PathBuf};

use golem_vm_end_to_end::{Market, Requestor, Session, eventually};
use rusqlite::Connection;

use super::answers;

/// A provider with a VM, in which somebody is logged in.
struct Rented {
    market: Market,
    requestor: Requestor,
    session: Session,
    database: PathBuf,
}

fn rented() -> Rented {
    let mut market = Market::with_one_provider();
    let requestor = market.requestor();
    requestor.rent("box");
    let mut session = requestor.session("box", &[]);
    session.echoes("before");
    let database = market.provider().data_dir().join("state.db");
    Rented { market, requestor, session, database }
}

/// The database with its log; looking at it makes an empty one.
fn files(database: &Path) -> [Option<Vec<u8>>; 2] {
    let log = fs::read(log_of(database)).ok().filter(|bytes| !bytes.is_empty());
    [fs::read(database).ok(), log]
}

fn log_of(database: &Path) -> PathBuf {
    PathBuf::from(format!("{}-wal", database.display()))
}

fn put_back(database: &Path, files: &[Option<Vec<u8>>; 2]) {
    let _ = fs::remove_file(format!("{}-shm", database.display()));
    for (path, bytes) in [database.to_owned(), log_of(database)].iter().zip(files) {
        match bytes {
            Some(bytes) => fs::write(path, bytes).unwrap(),
            None => drop(fs::remove_file(path)),
        }
    }
}

#[test]
fn one_that_another_program_holds() {
    let Rented { mut market, requestor, mut session, database } = rented();
    let holder = Connection::open(&database).unwrap();

    // While the provider runs: it serves what needs no writing, refuses the rest, and forgets nothing.
    holder.execute_batch("BEGIN EXCLUSIVE").unwrap();
    answers(&market, &requestor, "box");
    let id = market.provider().id().to_owned();
    let create = ["vm", "create", "second", "--provider-id", &id];
    requestor.golem(&create).failed(4).says(&["another program holds its database"]);
    session.echoes("held");
    holder.execute_batch("ROLLBACK").unwrap();
    eventually("nothing is left of what was refused", || {
        requestor.vms().len() == 1 && market.instances() == 1
    });
    requestor.golem(&create).done();
    requestor.golem(&["vm", "destroy", "second", "--yes"]).done();

    // At its start.
    market.provider().service().stop();
    let before = files(&database);
    holder.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let refused = market.provider().try_start().unwrap_err();
    assert!(refused.contains("exit status: 1"), "{refused}");
    for word in [&*database.display().to_string(), "another process has it locked", "fuser"] {
        assert!(refused.contains(word), "{word} is not in {refused}");
    }
    session.echoes("refused");
    holder.execute_batch("ROLLBACK").unwrap();
    assert!(files(&database) == before, "it was changed");
    drop(holder);
    market.provider().start();
    session.echoes("after");
    assert_eq!(requestor.vm("box")["status"], "running");
    market.close();
}

#[test]
fn one_that_is_damaged_or_newer_is_refused_and_stays_as_it_is() {
    let Rented { mut market, requestor, mut session, database } = rented();
    // Killed: the last commits are in the log only.
    market.provider().service().kill();
    let good = files(&database);
    let [Some(whole), Some(log)] = &good else { panic!("no database, or no log: {database:?}") };
    assert!(!log.is_empty());
    let backup = newest_backup(&database);

    let bytes = |bytes: &[u8]| Some(bytes.to_vec());
    let overwritten = |bytes: &[u8], from: usize| {
        let mut bytes = bytes.to_vec();
        bytes[from..from + 8192].fill(0x5a);
        Some(bytes)
    };
    let folded = folded(&database, &good);
    let middle = folded.len() / 2;
    let damage: Vec<(&str, [Option<Vec<u8>>; 2])> = vec![
        ("overwritten in the middle", [overwritten(&folded, middle), None]),
        ("its beginning overwritten", [overwritten(&folded, 0), None]),
        ("cut short", [bytes(&folded[..middle]), None]),
        ("cut to nothing", [bytes(&[]), None]),
        ("cut to nothing, with a log", [bytes(&[]), bytes(log)]),
        ("not there", [None, None]),
        ("its log overwritten in the middle", [bytes(whole), overwritten(log, log.len() / 4)]),
    ];
    for (what, damaged) in &damage {
        put_back(&database, damaged);
        let refused =
            market.provider().try_start().err().unwrap_or_else(|| panic!("{what}: it starts"));
        assert!(refused.contains("exit status: 1"), "{what}: {refused}");
        for word in [&*database.display().to_string(), "damaged", &backup.display().to_string()] {
            assert!(refused.contains(word), "{what}: {word} is not in {refused}");
        }
        assert!(&files(&database) == damaged, "{what}: it was changed");
        session.echoes(what);
    }

    // Of a newer release, with its last commits in the log.
    put_back(&database, &good);
    let newer = Connection::open(&database).unwrap();
    newer.pragma_update(None, "wal_autocheckpoint", 0).unwrap();
    newer.pragma_update(None, "user_version", 1_000).unwrap();
    let raised = files(&database);
    drop(newer);
    put_back(&database, &raised);
    let refused = market.provider().try_start().unwrap_err();
    for word in [&*database.display().to_string(), "newer release", "start the newer release"] {
        assert!(refused.contains(word), "{word} is not in {refused}");
    }
    assert!(files(&database) == raised, "it was changed");
    session.echoes("newer");
    assert_eq!(market.instances(), 1);

    // As it was: as if nothing had been.
    put_back(&database, &good);
    market.provider().start();
    assert_eq!(requestor.vm("box")["status"], "running");
    session.echoes("after");
    market.close();
}

#[test]
fn the_way_back_that_a_refusal_names_works() {
    let Rented { mut market, requestor, mut session, database } = rented();
    // What a backup is made of is what there is: one with the VM in it.
    market.provider().service().stop();
    fs::remove_dir_all(database.with_file_name("backups")).unwrap();
    market.provider().start();
    let backup = newest_backup(&database);
    market.provider().service().kill();
    let length = fs::metadata(&database).unwrap().len();
    fs::File::options().write(true).open(&database).unwrap().set_len(length / 2).unwrap();
    let _ = fs::remove_file(log_of(&database));
    let refused = market.provider().try_start().unwrap_err();
    assert!(refused.contains(&backup.display().to_string()), "{refused}");
    let (_, line) = refused.split_once("put that in its place: ").unwrap();
    let line = line.lines().next().unwrap();
    assert_eq!(requestor.shell(line).code, 0, "{line}");
    market.provider().start();
    session.echoes("after");
    assert_eq!(requestor.vm("box")["status"], "running");
    assert_eq!(requestor.in_vm("box", "hostname"), "box\n");
    market.close();
}

/// The newest backup, which the provider makes soon after its start.
fn newest_backup(database: &Path) -> PathBuf {
    let backups = database.with_file_name("backups");
    let newest = || {
        let mut found: Vec<PathBuf> =
            fs::read_dir(&backups).into_iter().flatten().flatten().map(|one| one.path()).collect();
        found.retain(|path| path.extension().is_some_and(|ending| ending == "db"));
        found.sort();
        found.pop()
    };
    eventually("there is a backup", || newest().is_some());
    newest().unwrap()
}

/// The same database without a log.
fn folded(database: &Path, files: &[Option<Vec<u8>>; 2]) -> Vec<u8> {
    put_back(database, files);
    let connection = Connection::open(database).unwrap();
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    drop(connection);
    fs::read(database).unwrap()
}
