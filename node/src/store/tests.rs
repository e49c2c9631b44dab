#![allow(clippy::unwrap_used)]
use super::*;

const SCHEMA: &[&str] = &["CREATE TABLE t (x INTEGER NOT NULL UNIQUE, y TEXT) STRICT;"];

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("state.db"), SCHEMA, Durability::Full).unwrap();
    (dir, store)
}

async fn insert(store: &Store, x: i64) -> Result<(), StoreError> {
    store
        .write("insert", move |db| {
            db.execute("INSERT INTO t (x) VALUES (?1)", [x])?;
            Ok(())
        })
        .await
}

async fn count(store: &Store) -> i64 {
    let count = store.read("count", |db| {
        Ok::<_, StoreError>(db.query_row("SELECT count(*) FROM t", [], |r| r.get(0))?)
    });
    count.await.unwrap()
}

#[tokio::test]
async fn what_is_acknowledged_is_read() {
    let (_dir, store) = store();
    for x in 0..20 {
        insert(&store, x).await.unwrap();
        assert_eq!(count(&store).await, x + 1);
    }
}

#[tokio::test]
async fn an_error_undoes_its_own_job_only() {
    let (_dir, store) = store();
    // Blocks the writer, so that the jobs behind it form one group.
    let (release, blocked) = std::sync::mpsc::channel::<()>();
    let gate = store.clone();
    let gate = tokio::spawn(async move {
        gate.write("gate", move |_| {
            blocked.recv().ok();
            Ok::<_, StoreError>(())
        })
        .await
    });
    tokio::task::yield_now().await;
    let mut jobs = Vec::new();
    for x in 0..40 {
        let store = store.clone();
        jobs.push(tokio::spawn(async move {
            store
                .write("maybe", move |db| {
                    db.execute("INSERT INTO t (x) VALUES (?1)", [x])?;
                    if x % 4 == 0 { Err(StoreError::Panicked("refused")) } else { Ok(x) }
                })
                .await
        }));
    }
    tokio::task::yield_now().await;
    release.send(()).unwrap();
    gate.await.unwrap().unwrap();
    for (x, job) in (0..).zip(jobs) {
        assert_eq!(job.await.unwrap().is_ok(), x % 4 != 0);
    }
    assert_eq!(count(&store).await, 30);
}

#[tokio::test]
async fn constraints_and_panics_are_told_and_the_store_lives_on() {
    let (_dir, store) = store();
    insert(&store, 1).await.unwrap();
    assert_eq!(insert(&store, 1).await.unwrap_err().kind(), Some(FailureKind::Constraint));
    let panicked = store.write("boom", |db| {
        db.execute("INSERT INTO t (x) VALUES (2)", [])?;
        if db.is_autocommit() { Ok(()) } else { panic!("a defect") }
    });
    assert_eq!(panicked.await, Err(StoreError::Panicked("boom")));
    let panicked = store.read("boom", |_| -> Result<(), StoreError> { panic!("a defect") });
    assert_eq!(panicked.await, Err(StoreError::Panicked("boom")));
    assert_eq!(count(&store).await, 1);
    insert(&store, 3).await.unwrap();
}

#[tokio::test]
async fn a_job_that_ends_the_transaction_fails_its_group_and_no_more() {
    let (_dir, store) = store();
    let result = store.write("rogue", |db| {
        db.execute("INSERT INTO t (x) VALUES (9)", [])?;
        db.execute_batch("ROLLBACK")?;
        Ok::<_, StoreError>(())
    });
    assert!(result.await.is_err());
    insert(&store, 1).await.unwrap();
    assert_eq!(count(&store).await, 1);
}

#[tokio::test]
async fn a_taken_job_is_finished_without_its_caller() {
    let (_dir, store) = store();
    let (release, blocked) = std::sync::mpsc::channel::<()>();
    let mut job = Box::pin(store.write("slow", move |db| {
        blocked.recv().ok();
        db.execute("INSERT INTO t (x) VALUES (1)", [])?;
        Ok::<_, StoreError>(())
    }));
    // Polled once: the job is in the queue.
    assert!(tokio::time::timeout(std::time::Duration::ZERO, &mut job).await.is_err());
    drop(job);
    release.send(()).unwrap();
    insert(&store, 2).await.unwrap();
    assert_eq!(count(&store).await, 2);
}

#[tokio::test]
async fn shutting_down_finishes_what_was_taken_and_refuses_the_rest() {
    let (dir, store) = store();
    let mut jobs = Vec::new();
    for x in 0..100 {
        let store = store.clone();
        jobs.push(tokio::spawn(async move { insert(&store, x).await }));
    }
    tokio::task::yield_now().await;
    store.shutdown().await;
    let mut kept = 0;
    for job in jobs {
        match job.await.unwrap() {
            Ok(()) => kept += 1,
            Err(error) => assert_eq!(error, StoreError::Closed),
        }
    }
    assert_eq!(insert(&store, 1000).await, Err(StoreError::Closed));
    let read = store.read("late", |_| Ok::<_, StoreError>(()));
    assert_eq!(read.await, Err(StoreError::Closed));
    store.shutdown().await;
    assert!(!dir.path().join("state.db-wal").exists(), "the log was folded into the database");

    let again = Store::open(&dir.path().join("state.db"), SCHEMA, Durability::Full).unwrap();
    assert_eq!(count(&again).await, kept);
}

#[tokio::test]
async fn a_read_sees_one_snapshot_and_can_not_write() {
    let (_dir, store) = store();
    let result = store.read("sneaky", |db| {
        db.execute("INSERT INTO t (x) VALUES (1)", [])?;
        Ok::<_, StoreError>(())
    });
    assert!(result.await.is_err());
    assert_eq!(count(&store).await, 0);
}
