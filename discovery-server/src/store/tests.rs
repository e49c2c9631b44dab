//! One scenario over every store: they have to agree.

#![allow(clippy::unwrap_used)]

use golem_vm_protocol::document::DocumentDigest;
use golem_vm_protocol::time::Timestamp;

use super::{MemoryStore, SqliteStore};
use crate::registry::feed::{Content, Publication, PublishOutcome, Row, State, Store};

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_unix_seconds(seconds)
}

fn signed(id: &str, sequence: u64, seconds: u64) -> Publication {
    let digest = DocumentDigest::of(&sequence.to_be_bytes());
    let envelope = format!("{{\"n\":{sequence}}}");
    Publication {
        provider_id: id.into(),
        content: Content::Signed { sequence, digest, envelope },
        observed_address: "192.0.2.1".into(),
        at: at(seconds),
        expires_at: at(seconds + 300),
    }
}

fn unsigned(id: &str, seconds: u64) -> Publication {
    Publication { content: Content::Unsigned { body: "{}".into() }, ..signed(id, 0, seconds) }
}

async fn stored(store: &dyn Store, publication: Publication) -> Row {
    match store.publish_if_newer(publication).await.unwrap() {
        PublishOutcome::Stored(row) => row,
        PublishOutcome::NotNewer { known } => panic!("refused: {known} is known"),
    }
}

async fn scenario(store: &dyn Store) {
    let a = stored(store, signed("a", 5, 100)).await;
    let b = stored(store, unsigned("b", 110)).await;
    assert!(b.revision > a.revision);
    assert_eq!(store.changes_since(0, 10).await.unwrap(), [a.clone(), b.clone()]);
    assert_eq!(store.changes_since(0, 1).await.unwrap(), std::slice::from_ref(&a));
    assert_eq!(store.changes_since(a.revision, 10).await.unwrap(), std::slice::from_ref(&b));

    // Refused, and nothing changes.
    let older = store.publish_if_newer(signed("a", 4, 120)).await.unwrap();
    assert_eq!(older, PublishOutcome::NotNewer { known: 5 });
    assert_eq!(store.changes_since(b.revision, 10).await.unwrap(), []);

    // A row is in the feed once, with its latest state.
    let newer = stored(store, signed("a", 6, 130)).await;
    assert_eq!(store.changes_since(0, 10).await.unwrap(), [b.clone(), newer.clone()]);

    // Withdrawn: in the feed without content, and only once.
    let revision = store.withdraw("a", at(140)).await.unwrap().unwrap();
    let changes = store.changes_since(newer.revision, 10).await.unwrap();
    assert_eq!(changes.len(), 1);
    assert_eq!((changes[0].state, changes[0].revision), (State::Withdrawn, revision));
    assert_eq!((&changes[0].content, changes[0].signed), (&None, newer.signed));
    assert_eq!(store.withdraw("a", at(140)).await.unwrap(), None);
    assert_eq!(store.withdraw("nobody", at(140)).await.unwrap(), None);
    let again = store.publish_if_newer(signed("a", 6, 150)).await.unwrap();
    assert_eq!(again, PublishOutcome::NotNewer { known: 6 });

    // Expired: what is still good stays.
    let c = stored(store, signed("c", 1, 400)).await;
    assert_eq!(store.expire(at(410), 10).await.unwrap(), 1);
    assert_eq!(store.expire(at(410), 10).await.unwrap(), 0);
    let changes = store.changes_since(c.revision, 10).await.unwrap();
    assert_eq!(changes.len(), 1);
    assert_eq!((changes[0].provider_id.as_str(), changes[0].state), ("b", State::Expired));
    assert!(changes[0].revision > c.revision);

    // Graves go when their time is over, and no revision is used twice.
    let last = changes[0].revision;
    store.clear_graves(at(140), at(100)).await.unwrap();
    assert_eq!(store.changes_since(0, 10).await.unwrap().len(), 3);
    store.clear_graves(at(141), at(1000)).await.unwrap();
    assert_eq!(store.changes_since(0, 10).await.unwrap(), [c]);
    assert!(stored(store, signed("a", 1, 500)).await.revision > last);
}

#[tokio::test]
async fn stores_agree() {
    scenario(&MemoryStore::default()).await;
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&dir.path().join("state.db")).unwrap();
    scenario(&store).await;
    store.close().await;
}

#[tokio::test]
async fn sqlite_keeps_it_and_a_second_process_sees_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let (first, second) = (SqliteStore::open(&path).unwrap(), SqliteStore::open(&path).unwrap());
    let row = stored(&first, signed("a", 5, 100)).await;
    assert_eq!(second.changes_since(0, 10).await.unwrap(), std::slice::from_ref(&row));
    let newer = stored(&second, signed("a", 6, 110)).await;
    assert_eq!(first.changes_since(row.revision, 10).await.unwrap(), std::slice::from_ref(&newer));
    first.close().await;
    second.close().await;
    assert!(first.changes_since(0, 10).await.unwrap_err().transient);

    let again = SqliteStore::open(&path).unwrap();
    assert_eq!(again.changes_since(0, 10).await.unwrap(), [newer]);
    again.close().await;
}
