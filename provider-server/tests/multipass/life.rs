//! The life of an instance, on every release.

use std::time::Duration;

use golem_vm_provider::backend::{Backend as _, BackendError, Observation};
use serde_json::json;

use super::fixture::{Fixture, key, spec};

const GRACE: Duration = Duration::from_secs(30);
const RELEASES: [&str; 8] =
    ["1.10.1", "1.11.1", "1.12.2", "1.13.1", "1.14.1", "1.15.1", "1.16.3", "1.17.0"];

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_lives_and_goes_on_every_release() {
    for release in RELEASES {
        let mut ground = Fixture::of_release(release);
        let spec = spec(1);
        assert!(ground.backend.probe().await.unwrap().version.contains(release));
        assert_eq!(ground.backend.observe(spec.id).await, Ok(Observation::Absent), "{release}");
        ground.backend.ensure(&spec).await.unwrap();
        ground.backend.ensure(&spec).await.unwrap();
        ground.backend.start(spec.id).await.unwrap();
        assert!(ground.runs(spec.id).await, "{release}");
        assert_eq!(ground.backend.list().await.unwrap(), [spec.id]);
        let name = ground.names().remove(0);
        let record = ground.record(&name);
        assert_eq!(
            (&record["cpus"], &record["memory"], &record["disk"]),
            (&json!(2), &json!(1_u64 << 30), &json!(8_u64 << 30))
        );

        ground.backend.stop(spec.id, GRACE).await.unwrap();
        ground.backend.stop(spec.id, GRACE).await.unwrap();
        assert!(
            matches!(ground.backend.observe(spec.id).await, Ok(Observation::Stopped { .. })),
            "{release}"
        );
        ground.restart();
        ground.backend.start(spec.id).await.unwrap();
        assert!(ground.runs(spec.id).await, "{release}");
        assert_eq!(ground.names(), [name], "the same one");

        ground.backend.destroy(spec.id).await.unwrap();
        ground.backend.destroy(spec.id).await.unwrap();
        assert_eq!(ground.backend.observe(spec.id).await, Ok(Observation::Absent));
        assert_eq!(ground.names(), [""; 0]);
        assert_eq!(ground.count("launch"), 1);
        let missing = ground.backend.start(spec.id).await;
        assert_eq!(missing, Err(BackendError::NoInstance(spec.id)));
        ground.nothing_forbidden_was_done();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn its_address_is_read_again_after_every_start() {
    let ground = Fixture::new();
    let spec = spec(1);
    ground.backend.ensure(&spec).await.unwrap();
    let name = ground.names().remove(0);
    let Ok(Observation::Running { ssh }) = ground.backend.observe(spec.id).await else { panic!() };
    assert_eq!(ssh.port(), 22);
    ground.backend.stop(spec.id, GRACE).await.unwrap();
    ground.change_record(&name, json!({ "address": "10.99.99.99" }));
    ground.backend.start(spec.id).await.unwrap();
    let Ok(Observation::Running { ssh }) = ground.backend.observe(spec.id).await else { panic!() };
    assert_eq!(ssh.to_string(), "10.99.99.99:22");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_does_not_listen_is_switched_off_and_nobody_waits_for_it() {
    let ground = Fixture::new();
    let spec = spec(1);
    ground.backend.ensure(&spec).await.unwrap();
    for trouble in [json!({ "deaf": true }), json!({ "deaf": false, "no_way_in": true })] {
        ground.set(trouble);
        ground.backend.stop(spec.id, Duration::from_millis(200)).await.unwrap();
        assert!(matches!(ground.backend.observe(spec.id).await, Ok(Observation::Stopped { .. })));
        ground.set(json!({ "deaf": false, "no_way_in": false }));
        ground.backend.start(spec.id).await.unwrap();
    }
    let asked_daemon = ground.calls().iter().any(|call| call[0] == "stop" && call[1] != "--force");
    assert!(!asked_daemon, "the daemon answers nobody while it waits for a guest");
    ground.nothing_forbidden_was_done();
}

#[tokio::test(flavor = "multi_thread")]
async fn that_it_stopped_is_not_believed_but_looked_at() {
    // Before 1.14 a stop that did nothing says that all is well.
    let ground = Fixture::with(
        |pace| pace.poll = Duration::from_millis(50),
        json!({ "version": "1.13.1", "stop_limit_ms": 100 }),
    );
    let spec = spec(1);
    ground.backend.ensure(&spec).await.unwrap();
    ground.set(json!({ "deaf": true }));
    let error = ground.backend.stop(spec.id, Duration::from_millis(100)).await.unwrap_err();
    assert!(error.to_string().contains("1.14"), "{error}");
    assert!(ground.runs(spec.id).await, "nothing of its is thrown away");

    let ground =
        Fixture::with(|pace| pace.poll = Duration::from_millis(50), json!({ "no_way_in": false }));
    ground.backend.ensure(&spec).await.unwrap();
    ground.set(json!({ "no_way_in": true }));
    ground.fault("stop", json!("lies"), 1);
    ground.backend.stop(spec.id, GRACE).await.unwrap_err();
    ground.backend.stop(spec.id, GRACE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_change_while_it_runs_or_when_it_next_does() {
    let ground = Fixture::new();
    let spec = spec(1);
    ground.backend.ensure(&spec).await.unwrap();
    let name = ground.names().remove(0);
    let (first, second) = (key(), key());
    ground.backend.authorize(spec.id, std::slice::from_ref(&first)).await.unwrap();
    assert_eq!(ground.told(&name, "keys").trim(), first.as_str());

    ground.backend.stop(spec.id, GRACE).await.unwrap();
    let before = ground.count("exec");
    ground.backend.authorize(spec.id, std::slice::from_ref(&second)).await.unwrap();
    assert_eq!(ground.count("exec"), before, "it would start it");
    ground.backend.start(spec.id).await.unwrap();
    assert_eq!(ground.told(&name, "keys").trim(), second.as_str());

    // What can't be written is told, and not taken for done.
    ground.set(json!({ "no_way_in": true }));
    let mut ground = ground;
    ground.pace.query = Duration::from_secs(2);
    ground.restart();
    ground.backend.authorize(spec.id, &[first]).await.unwrap_err();
    ground.nothing_forbidden_was_done();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_the_trash_is_told_and_removed_for_ever() {
    let ground = Fixture::new();
    let spec = spec(1);
    ground.backend.ensure(&spec).await.unwrap();
    let name = ground.names().remove(0);
    ground.by_hand(&["delete", &name]);
    let Ok(Observation::Broken { reason }) = ground.backend.observe(spec.id).await else {
        panic!()
    };
    assert!(reason.contains(&format!("multipass recover {name}")), "{reason}");
    ground.backend.start(spec.id).await.unwrap_err();
    ground.by_hand(&["recover", &name]);
    ground.backend.start(spec.id).await.unwrap();
    ground.by_hand(&["delete", &name]);
    ground.backend.destroy(spec.id).await.unwrap();
    assert_eq!(ground.names(), [""; 0], "its name and its disk are free");
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_of_others_are_not_seen_and_not_touched() {
    let ground = Fixture::new();
    let spec = spec(1);
    let foreign = ["primary", "golem-aaaaaaaaaa-00000000000000000000000000-12345678"];
    for name in foreign {
        ground.by_hand(&["launch", "--name", name]);
    }
    ground.backend.ensure(&spec).await.unwrap();
    assert_eq!(ground.backend.list().await.unwrap(), [spec.id]);
    ground.backend.destroy(spec.id).await.unwrap();
    ground.backend.clean_up().await.unwrap();
    let mut left = ground.names();
    left.sort();
    assert_eq!(left, ["golem-aaaaaaaaaa-00000000000000000000000000-12345678", "primary"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_vanished_is_absent() {
    let ground = Fixture::new();
    let spec = spec(1);
    ground.backend.ensure(&spec).await.unwrap();
    let name = ground.names().remove(0);
    ground.by_hand(&["delete", "--purge", &name]);
    assert_eq!(ground.backend.observe(spec.id).await, Ok(Observation::Absent));
    assert!(ground.backend.survey().await.unwrap().is_empty());
    ground.backend.destroy(spec.id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_is_known_by_its_name_when_what_was_written_down_is_lost() {
    let mut ground = Fixture::new();
    let spec = spec(1);
    ground.backend.ensure(&spec).await.unwrap();
    ground.forget();
    assert_eq!(ground.backend.list().await.unwrap(), [spec.id]);
    assert!(ground.runs(spec.id).await);
    ground.backend.ensure(&spec).await.unwrap();
    assert_eq!(ground.count("launch"), 1);
    ground.backend.destroy(spec.id).await.unwrap();
    assert_eq!(ground.names(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_come_one_after_the_other() {
    let ground = Fixture::with(|_| {}, json!({ "stop_ms": 20 }));
    let specs: Vec<_> = (1..=4).map(spec).collect();
    let lives = specs.iter().map(async |spec| {
        ground.backend.ensure(spec).await.unwrap();
        ground.backend.stop(spec.id, Duration::ZERO).await.unwrap();
        ground.backend.start(spec.id).await.unwrap();
        ground.backend.destroy(spec.id).await.unwrap();
    });
    futures_util::future::join_all(lives).await;
    ground.nothing_forbidden_was_done();
    assert_eq!(ground.names(), [""; 0]);
}
