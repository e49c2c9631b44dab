//! "Stopped", "absent", "broken" and "could not ask" are four answers, whatever state the engine is in.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use golem_vm_protocol::{KeyPair, VmId};
use serde_json::{Value, json};

use super::DockerBackend;
use super::fake_engine::{Answer, FakeEngine, info, no_container};
use super::identity::Identity;
use crate::backend::{Backend, BackendError, EndedBy, InstanceId, Observation};
use crate::containment::{Firewall, Rules};

const GRACE: Duration = Duration::from_secs(1);

fn provider() -> KeyPair {
    KeyPair::from_secret_bytes([9; 32]).unwrap()
}

fn one() -> InstanceId {
    InstanceId::of(VmId::from_bytes([7; 16]))
}

fn backend(engine: &FakeEngine) -> DockerBackend {
    let id = provider().id();
    DockerBackend::on(engine.endpoint(), id, Firewall::new(&id, Rules::default()))
}

fn container(status: &str) -> Value {
    json!({
        "State": { "Status": status, "StartedAt": "2026-11-21T12:00:00Z", "ExitCode": 0 },
        "Config": { "Labels": { "golem.provider": provider().id().to_string() } },
        "NetworkSettings": { "Networks": { "golem-x": { "IPAddress": "" } } },
    })
}

fn listed(status: &str) -> Value {
    json!([{ "Names": [format!("/{}", one())], "State": status, "Status": "Exited (0) 1 hour ago" }])
}

fn is_unavailable<T>(outcome: &Result<T, BackendError>) -> bool {
    matches!(outcome, Err(BackendError::Unavailable(_)))
}

/// What an engine, or what is in its place, may do instead of answering.
fn no_answers() -> Vec<(&'static str, Answer)> {
    vec![
        ("it closes", Answer::Closes),
        ("it resets", Answer::Resets),
        ("it is shutting down", Answer::Text(503, "{\"message\":\"shutting down\"}")),
        ("a proxy has no engine", Answer::Text(502, "<html>Bad Gateway</html>")),
        ("a proxy waited in vain", Answer::Text(504, "")),
        (
            "containerd is away",
            Answer::Text(
                500,
                "{\"message\":\"connection error: desc = \\\"transport: error while dialing: dial unix \
                 /run/containerd/containerd.sock\\\"\"}",
            ),
        ),
        ("containerd goes", Answer::Text(500, "{\"message\":\"ttrpc: closed: unknown\"}")),
        ("another server", Answer::Text(404, "404 page not found\n")),
        ("yet another", Answer::Text(404, "<html><h1>Not Found</h1></html>")),
        ("half an answer", Answer::Sends("HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{\"Sta")),
        ("half a head", Answer::Sends("HTTP/1.1 200")),
        ("no HTTP", Answer::Sends("SSH-2.0-OpenSSH_9.2\r\n")),
        ("not JSON", Answer::Text(200, "{\"State\":{\"Status\":\"exi")),
        ("other JSON", Answer::Text(200, "\"yes\"")),
    ]
}

#[tokio::test]
async fn whatever_is_no_answer_is_could_not_ask_for_every_call() {
    for (what, answer) in no_answers() {
        nothing_could_be_asked(what, answer).await;
    }
}

// The clock jumps to the next deadline when nothing else can happen.
#[tokio::test(start_paused = true)]
async fn an_engine_that_hangs_is_given_up_in_time() {
    let begun = tokio::time::Instant::now();
    nothing_could_be_asked("it hangs", Answer::Hangs).await;
    // Eleven calls of which none waits longer than a change may take, and some look twice.
    assert!(begun.elapsed() < Duration::from_secs(11 * 120), "{:?}", begun.elapsed());
}

async fn nothing_could_be_asked(what: &str, answer: Answer) {
    let engine = FakeEngine::new(move |_, _| answer.clone()).await;
    let backend = backend(&engine);
    let unavailable = [
        is_unavailable(&backend.observe(one()).await),
        is_unavailable(&backend.survey().await),
        is_unavailable(&backend.list().await),
        is_unavailable(&backend.start(one()).await),
        is_unavailable(&backend.stop(one(), GRACE).await),
        is_unavailable(&backend.destroy(one()).await),
        is_unavailable(&backend.authorize(one(), &[]).await),
        is_unavailable(&backend.ensure(&super::spec::tests::spec()).await),
        is_unavailable(&backend.probe().await),
    ];
    // A call whose answer has no body can't tell that this one makes no sense.
    let bodiless = ["not JSON", "other JSON", "half an answer"].contains(&what);
    for (number, unavailable) in unavailable.into_iter().enumerate() {
        let has_no_body = bodiless && (3..=6).contains(&number);
        assert!(unavailable || has_no_body, "{what}: call {number}");
    }
}

#[tokio::test]
async fn each_state_of_a_container_has_one_answer() {
    let stopped =
        Observation::Stopped { exit_code: Some(0), out_of_memory: false, by: EndedBy::Unknown };
    for (state, broken) in [
        ("exited", false),
        ("paused", true),
        ("restarting", true),
        ("removing", true),
        ("dead", true),
    ] {
        let engine = FakeEngine::new(move |_, path| match path {
            "/info" => info("A"),
            "/containers/json" => Answer::Says(200, listed(state)),
            _ => Answer::Says(200, container(state)),
        })
        .await;
        let backend = backend(&engine);
        let seen = backend.observe(one()).await.unwrap();
        assert_eq!(matches!(seen, Observation::Broken { .. }), broken, "{state}: {seen:?}");
        assert_eq!(seen == stopped, !broken, "{state}");
        assert_eq!(backend.survey().await.unwrap()[&one()], seen, "{state}");
    }
    let engine = FakeEngine::new(|_, path| match path {
        "/info" => info("A"),
        "/containers/json" => Answer::Says(200, json!([])),
        _ => no_container(),
    })
    .await;
    let backend = backend(&engine);
    assert_eq!(backend.observe(one()).await, Ok(Observation::Absent));
    assert!(backend.survey().await.unwrap().is_empty());
    assert_eq!(backend.stop(one(), GRACE).await, Err(BackendError::NoInstance(one())));
    assert_eq!(backend.start(one()).await, Err(BackendError::NoInstance(one())));
    assert_eq!(backend.destroy(one()).await, Ok(()));
}

#[tokio::test]
async fn refusals_are_not_taken_for_absence() {
    for (status, message) in [
        (500, "driver \\\"overlay2\\\" failed to remove root filesystem: device or resource busy"),
        (500, "cannot stop container: permission denied"),
        (409, "Container is marked for removal and cannot be started"),
        (404, "Could not find the file / in container golem"),
        (400, "invalid argument"),
        (403, "forbidden by policy"),
    ] {
        let body = json!({ "message": message });
        let engine = FakeEngine::new(move |method, path| match (method, path) {
            (_, "/info") => info("A"),
            ("GET", path) if path.ends_with("/json") => Answer::Says(200, container("exited")),
            _ => Answer::Says(status, body.clone()),
        })
        .await;
        let backend = backend(&engine);
        let outcomes = [
            backend.start(one()).await,
            backend.stop(one(), GRACE).await,
            backend.destroy(one()).await,
            backend.authorize(one(), &[]).await,
        ];
        for (number, outcome) in outcomes.into_iter().enumerate() {
            assert!(
                matches!(outcome, Err(BackendError::Failed(_))),
                "{status}, {number}: {outcome:?}"
            );
        }
    }
}

/// An engine of this id that has this provider's instance, its network only, or nothing.
fn engine_with(
    id: &'static str,
    instance: bool,
    network: bool,
) -> impl FnMut(&str, &str) -> Answer {
    move |_, path| match path {
        "/info" => info(id),
        "/containers/json" if instance => Answer::Says(200, listed("exited")),
        "/networks" if network => Answer::Says(200, json!([{ "Name": "golem-x", "Id": "1" }])),
        "/containers/json" | "/networks" => Answer::Says(200, json!([])),
        _ if instance => Answer::Says(200, container("exited")),
        _ => no_container(),
    }
}

/// A provider that has an instance on the engine `A`, as it is after another start.
async fn settled(folder: &std::path::Path) -> (FakeEngine, DockerBackend) {
    let engine = FakeEngine::new(engine_with("A", true, true)).await;
    let first = backend(&engine).keeping(folder);
    assert_eq!(first.survey().await.unwrap().len(), 1);
    let second = backend(&engine).keeping(folder);
    (engine, second)
}

#[tokio::test]
async fn on_another_or_an_emptied_engine_nothing_is_absent() {
    for (what, id, network) in [
        ("another engine", "B", false),
        ("another on which there was a VM once", "B", true),
        ("one that was emptied and kept its id", "A", false),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let (engine, backend) = settled(folder.path()).await;
        engine.set(engine_with(id, false, network));
        assert!(is_unavailable(&backend.survey().await), "{what}");
        assert!(is_unavailable(&backend.list().await), "{what}");
        assert!(is_unavailable(&backend.observe(one()).await), "{what}");
        assert!(is_unavailable(&backend.start(one()).await), "{what}");
        assert!(is_unavailable(&backend.stop(one(), GRACE).await), "{what}");
        assert!(
            is_unavailable(&backend.destroy(one()).await),
            "{what}: its row would be forgotten"
        );
        let made = backend.ensure(&super::spec::tests::spec()).await;
        assert!(is_unavailable(&made), "{what}: the two would be told apart no more");
        let trouble = backend.trouble().unwrap().borrow().clone().unwrap();
        assert!(trouble.contains("golem-provider accept-engine"), "{trouble}");

        // It comes back.
        engine.set(engine_with("A", true, true));
        let stopped =
            Observation::Stopped { exit_code: Some(0), out_of_memory: false, by: EndedBy::Unknown };
        assert_eq!(backend.observe(one()).await, Ok(stopped), "{what}");
        assert_eq!(*backend.trouble().unwrap().borrow(), None, "{what}");
        // Now it is gone for sure.
        engine.set(engine_with("A", false, true));
        assert_eq!(backend.observe(one()).await, Ok(Observation::Absent), "{what}");
    }
}

#[tokio::test]
async fn an_engine_that_was_accepted_is_believed_by_the_running_provider() {
    let folder = tempfile::tempdir().unwrap();
    let (engine, backend) = settled(folder.path()).await;
    engine.set(engine_with("B", false, false));
    assert!(is_unavailable(&backend.observe(one()).await));
    assert_eq!(Identity::accept_any(folder.path()).unwrap().as_deref(), Some("A"));
    assert_eq!(backend.observe(one()).await, Ok(Observation::Absent));
    assert_eq!(*backend.trouble().unwrap().borrow(), None);
    // A file that is lost or damaged accepts nothing.
    let (engine, backend) = settled(folder.path()).await;
    engine.set(engine_with("B", false, false));
    std::fs::write(folder.path().join("engine.json"), "{").unwrap();
    assert!(is_unavailable(&backend.observe(one()).await));
    std::fs::remove_file(folder.path().join("engine.json")).unwrap();
    assert!(is_unavailable(&backend.observe(one()).await));
}

#[tokio::test]
async fn without_instances_any_engine_will_do() {
    let folder = tempfile::tempdir().unwrap();
    let (engine, backend) = settled(folder.path()).await;
    let gone = Arc::new(std::sync::atomic::AtomicBool::new(false));
    engine.set({
        let gone = Arc::clone(&gone);
        move |method, path| {
            if method == "DELETE" {
                gone.store(true, std::sync::atomic::Ordering::SeqCst);
                return Answer::Text(204, "");
            }
            let there = !gone.load(std::sync::atomic::Ordering::SeqCst);
            engine_with("A", there, true)(method, path)
        }
    });
    backend.destroy(one()).await.unwrap();
    engine.set(engine_with("B", false, false));
    assert_eq!(backend.observe(one()).await, Ok(Observation::Absent));
    assert_eq!(*backend.trouble().unwrap().borrow(), None);
}
