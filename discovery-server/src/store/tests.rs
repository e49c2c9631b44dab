//! One scenario over every store: they have to agree.

#![allow(clippy::unwrap_used)]

use golem_vm_protocol::document::DocumentDigest;
use golem_vm_protocol::time::Timestamp;

use super::{MemoryStore, SqliteStore};
use crate::registry::crowd::{Bounds, NoRoom};
use crate::registry::feed::{
    Content, Publication, PublishOutcome, Refusal, Row, State, Store, Withdrawal,
};

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

fn gone(id: &str, seconds: u64) -> Withdrawal {
    Withdrawal { provider_id: id.into(), unsigned_from: None, at: at(seconds) }
}

async fn stored(store: &dyn Store, publication: Publication) -> Row {
    match store.publish_if_newer(publication, Bounds::default()).await.unwrap() {
        PublishOutcome::Stored(row) => row,
        PublishOutcome::Refused(refusal) => panic!("{refusal:?}"),
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
    let older = store.publish_if_newer(signed("a", 4, 120), Bounds::default()).await.unwrap();
    assert_eq!(older, PublishOutcome::Refused(Refusal::NotNewer { known: 5 }));
    assert_eq!(store.changes_since(b.revision, 10).await.unwrap(), []);

    // A row is in the feed once, with its latest state.
    let newer = stored(store, signed("a", 6, 130)).await;
    assert_eq!(store.changes_since(0, 10).await.unwrap(), [b.clone(), newer.clone()]);

    // Withdrawn: in the feed without content, and only once.
    let revision = store.withdraw(gone("a", 140)).await.unwrap().unwrap();
    let changes = store.changes_since(newer.revision, 10).await.unwrap();
    assert_eq!(changes.len(), 1);
    assert_eq!((changes[0].state, changes[0].revision), (State::Withdrawn, revision));
    assert_eq!((&changes[0].content, changes[0].signed), (&None, newer.signed));
    assert_eq!(store.withdraw(gone("a", 140)).await.unwrap(), None);
    assert_eq!(store.withdraw(gone("nobody", 140)).await.unwrap(), None);
    let again = store.publish_if_newer(signed("a", 6, 150), Bounds::default()).await.unwrap();
    assert_eq!(again, PublishOutcome::Refused(Refusal::NotNewer { known: 6 }));

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

async fn crowd(store: &dyn Store) {
    let bounds = Bounds { per_address: 2, total: 4 };
    let publish = async |id: &str, from: &str, seconds: u64| {
        let publication =
            Publication { observed_address: from.into(), ..signed(id, seconds, seconds) };
        match store.publish_if_newer(publication, bounds).await.unwrap() {
            PublishOutcome::Stored(_) => Ok(()),
            PublishOutcome::Refused(refusal) => Err(refusal),
        }
    };
    let listed = async || {
        let rows = store.changes_since(0, 100).await.unwrap();
        let mut ids: Vec<_> = rows
            .into_iter()
            .filter(|row| row.state == State::Live)
            .map(|row| row.provider_id)
            .collect();
        ids.sort();
        ids.concat()
    };
    for (id, from, seconds) in
        [("a", "192.0.2.1", 100), ("b", "192.0.2.1", 101), ("c", "192.0.3.1", 102)]
    {
        publish(id, from, seconds).await.unwrap();
    }
    let of_address = Err(Refusal::NoRoom(NoRoom::Address));
    assert_eq!(publish("x", "192.0.2.1", 103).await, of_address);
    publish("a", "192.0.2.1", 104).await.unwrap();
    publish("d", "198.51.100.1", 105).await.unwrap();
    // Full. A third network takes the place of the youngest of the first, a fourth as well; then
    // nobody has two more than a newcomer.
    publish("e", "203.0.113.1", 106).await.unwrap();
    assert_eq!(listed().await, "abde");
    publish("f", "2001:db8::1", 107).await.unwrap();
    assert_eq!(listed().await, "adef");
    let of_list = Err(Refusal::NoRoom(NoRoom::List));
    assert_eq!(publish("g", "100.64.0.1", 108).await, of_list);
    publish("a", "192.0.2.1", 109).await.unwrap();
    // Time makes room.
    publish("g", "100.64.0.1", 407).await.unwrap();
    assert_eq!(listed().await, "ag");
}

#[tokio::test]
async fn stores_agree_on_who_gives_way() {
    crowd(&MemoryStore::default()).await;
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&dir.path().join("state.db")).unwrap();
    crowd(&store).await;
    store.close().await;
}

#[tokio::test]
async fn those_who_come_and_go_are_not_remembered_without_end() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&dir.path().join("state.db")).unwrap();
    let bounds = Bounds { per_address: 0, total: 5 };
    let publish = async |id: &str, from: &str, seconds: u64| {
        let publication = Publication { observed_address: from.into(), ..signed(id, 7, seconds) };
        store.publish_if_newer(publication, bounds).await.unwrap();
        store.withdraw(gone(id, seconds)).await.unwrap();
    };
    publish("honest", "192.0.2.1", 100).await;
    for number in 0..50 {
        publish(&format!("flood-{number}"), "198.51.100.1", 101 + number).await;
    }
    let rows = store.changes_since(0, 100).await.unwrap();
    assert_eq!(rows.len(), bounds.known());
    assert!(rows.iter().any(|row| row.provider_id == "honest"), "the flood's own are forgotten");
    assert!(rows.iter().any(|row| row.provider_id == "flood-49"));
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
