//! What happened to a VM, page by page and as it happens.

use golem_vm_protocol::signature::Nonce;
use golem_vm_protocol::vm::{Actor, Cause, EventKind, StreamReader, VmEvent, VmEvents, VmStage};

use super::wire::{Got, Sent};
use super::*;

async fn page(me: &Requestor, provider: &Provider, path: &str) -> VmEvents {
    serde_json::from_value(me.get(provider, path).await.unwrap()).unwrap()
}

fn numbers(events: &[VmEvent]) -> Vec<u64> {
    events.iter().map(|event| event.number).collect()
}

fn states(events: &[VmEvent]) -> Vec<VmStage> {
    let states = events.iter().filter(|event| event.kind == EventKind::State);
    states.map(|event| event.to).collect()
}

/// The events of a stream that was read to its end, each of them checked.
fn read(got: &Got, provider: &Provider, nonce: Nonce, after: u64) -> Vec<VmEvent> {
    let mut reader = StreamReader::new(provider.id, nonce, &"box".parse().unwrap(), after);
    let mut events = Vec::new();
    reader.push(got.body.as_bytes(), &mut events).unwrap_or_else(|e| panic!("{e}: {got:?}"));
    events
}

/// A requestor whose key signs raw requests as well.
async fn requestor(provider: &Provider) -> (Requestor, KeyPair) {
    let key = KeyPair::generate().unwrap();
    let me = Requestor(SignedClient::new(key.clone(), Arc::new(SystemClock)).unwrap());
    // Once it takes this, what is signed from now on is not stale.
    me.get(provider, route::VMS).await.unwrap();
    (me, key)
}

#[tokio::test]
async fn a_history_has_no_gaps_and_outlives_its_vm() {
    let ground = Ground::new().await;
    let provider = ground.provider(|_| {}).await;
    let (me, other) = (Requestor::new(), Requestor::new());
    let vm = me.create(&provider, "box").await.unwrap();
    me.post(&provider, "/api/v1/vms/box/stop").await.unwrap();
    me.post(&provider, "/api/v1/vms/box/start").await.unwrap();
    me.delete(&provider, "/api/v1/vms/box").await.unwrap();

    let by_id = format!("/api/v1/vms/{}/events", vm.id);
    let all = page(&me, &provider, "/api/v1/vms/box/events").await;
    assert_eq!(all, page(&me, &provider, &by_id).await);
    assert_eq!(all.next, None);
    let events = all.events;
    assert_eq!(numbers(&events), (1..=events.len() as u64).collect::<Vec<_>>());
    assert_eq!(
        states(&events),
        [
            VmStage::Creating,
            VmStage::Running,
            VmStage::Stopping,
            VmStage::Stopped,
            VmStage::Starting,
            VmStage::Running,
            VmStage::Destroying,
            VmStage::Destroyed,
        ]
    );
    let first = &events[0];
    assert_eq!((first.from, first.actor, first.cause), (None, Actor::Requestor, Cause::Requested));
    assert!(events.iter().all(|event| event.vm_id == vm.id));
    for pair in events.windows(2) {
        assert!(pair[0].steady_micros <= pair[1].steady_micros, "{pair:?}");
        assert!(pair[0].delivered_micros <= pair[1].delivered_micros, "{pair:?}");
        assert_eq!(pair[1].from, Some(pair[0].to), "{pair:?}");
    }

    // Page by page it is the same.
    let mut paged = Vec::new();
    let mut after = Some(0);
    while let Some(number) = after {
        let path = format!("{by_id}?after={number}&limit=3");
        let part = page(&me, &provider, &path).await;
        assert!(part.events.len() <= 3);
        after = part.next;
        paged.extend(part.events);
    }
    assert_eq!(paged, events);
    let last = events.len();
    assert_eq!(page(&me, &provider, &format!("{by_id}?after={last}")).await.events, []);

    // Nobody else's, there or gone; and another VM of that name has a history of its own.
    for path in [&by_id, "/api/v1/vms/box/events"] {
        assert_eq!(code(&other.get(&provider, path).await.unwrap_err()), ErrorCode::VmNotFound);
    }
    let second = me.create(&provider, "box").await.unwrap();
    let newest = page(&me, &provider, "/api/v1/vms/box/events").await.events;
    assert!(newest[0].number == 1 && newest.iter().all(|event| event.vm_id == second.id));
    assert_eq!(page(&me, &provider, &by_id).await.events, events);
    provider.end().await;
    let provider = ground.provider(|_| {}).await;
    assert_eq!(page(&me, &provider, &by_id).await.events, events);
    provider.end().await;
}

#[tokio::test]
async fn what_is_no_page_is_told_which_field() {
    let ground = Ground::new().await;
    let provider = ground.provider(|_| {}).await;
    let me = Requestor::new();
    me.create(&provider, "box").await.unwrap();
    for (query, pointer) in [
        ("events?limit=0", "?limit"),
        ("events?limit=1001", "?limit"),
        ("events?limit=x", "?limit"),
        ("events?after=-1", "?after"),
        ("events?after=99999999999999999999", "?after"),
        ("events/stream?after=x", "?after"),
    ] {
        let error = me.get(&provider, &format!("/api/v1/vms/box/{query}")).await.unwrap_err();
        let ClientError::Refused { problem, .. } = &error else { panic!("{query}: {error}") };
        assert_eq!(problem.code, ErrorCode::ValidationFailed, "{query}");
        assert_eq!(problem.errors[0].pointer, pointer, "{query}");
    }
    provider.end().await;
}

#[tokio::test]
async fn a_stream_tells_what_happens_and_ends_with_its_vm() {
    let ground = Ground::new().await;
    let provider = ground.provider(|_| {}).await;
    let (me, key) = requestor(&provider).await;
    let body = create_body("box");
    me.call(&provider, Call::post("/api/v1/vms?async=true", &body).unwrap()).await.unwrap();
    let path = "/api/v1/vms/box/events/stream";
    let sent = Sent::signed(&key, &provider, "GET", path, "");
    let living = async {
        while me.get(&provider, "/api/v1/vms/box").await.unwrap()["status"] != "running" {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        me.delete(&provider, "/api/v1/vms/box").await.unwrap();
    };
    let both = async { tokio::join!(sent.streamed(&provider), living).0 };
    let got = tokio::time::timeout(Duration::from_secs(60), both).await.expect("no end");
    assert_eq!(got.headers["content-type"], "text/event-stream");
    let told = read(&got, &provider, sent.nonce.unwrap(), 0);
    let all = page(&me, &provider, "/api/v1/vms/box/events").await.events;
    assert_eq!(told, all);
    assert_eq!(states(&told)[..2], [VmStage::Creating, VmStage::Running]);
    assert_eq!(told.last().unwrap().to, VmStage::Destroyed);
    assert!(got.body.starts_with("id: 1\nevent: state\ndata: {"), "{got:?}");

    // Of one that is gone, all that happened; and what is behind what was read.
    for (target, header, after) in [
        (path.to_owned(), None, 0),
        (format!("{path}?after=2"), None, 2),
        (path.to_owned(), Some("3"), 3),
        // The query is signed, the header is not.
        (format!("{path}?after=2"), Some("3"), 2),
    ] {
        let mut sent = Sent::signed(&key, &provider, "GET", &target, "");
        if let Some(value) = header {
            let name = ::http::HeaderName::from_static("last-event-id");
            sent.headers.push((name, ::http::HeaderValue::from_static(value)));
        }
        let got = sent.streamed(&provider).await;
        let told = read(&got, &provider, sent.nonce.unwrap(), after);
        assert_eq!(told, all[usize::try_from(after).unwrap()..], "{target} {header:?}");
    }
    provider.end().await;
}

#[tokio::test]
async fn a_stream_of_somebody_elses_vm_is_one_that_never_was() {
    let ground = Ground::new().await;
    let provider = ground.provider(|_| {}).await;
    let (owner, _) = requestor(&provider).await;
    let (_, stranger) = requestor(&provider).await;
    owner.create(&provider, "box").await.unwrap();
    let ask = async |name: &str| {
        let path = format!("/api/v1/vms/{name}/events/stream");
        // An ordinary reply, signed as one.
        Sent::signed(&stranger, &provider, "GET", &path, "").to(&provider).await.without(name)
    };
    let there = ask("box").await;
    assert_eq!(there.code(), Some(ErrorCode::VmNotFound));
    assert_eq!(there, ask("nox").await);
    owner.delete(&provider, "/api/v1/vms/box").await.unwrap();
    assert_eq!(there, ask("box").await);
    provider.end().await;
}
