//! A daemon that is away, slow, busy, old, or does not know this user.

use std::time::{Duration, Instant};

use golem_vm_provider::backend::{Backend as _, BackendError, EndedBy, Observation};
use serde_json::json;

use super::fixture::{Fixture, LONG, spec};

fn is_away<T: std::fmt::Debug>(answer: Result<T, BackendError>) -> String {
    let error = answer.unwrap_err();
    assert!(error.is_unavailable(), "{error}");
    error.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_away_says_nothing_about_any_instance() {
    let ground = Fixture::new();
    let spec = spec(1);
    ground.backend.ensure(&spec).await.unwrap();
    for (trouble, remedy) in [
        (json!({ "down": true }), "snap start multipass"),
        (json!({ "down": false, "unauthenticated": true }), "multipass authenticate"),
    ] {
        ground.set(trouble);
        assert!(is_away(ground.backend.survey().await).contains(remedy));
        is_away(ground.backend.observe(spec.id).await);
        is_away(ground.backend.list().await);
        is_away(ground.backend.destroy(spec.id).await);
        is_away(ground.backend.stop(spec.id, Duration::ZERO).await);
        assert!(is_away(ground.backend.probe().await).contains(remedy));
    }
    ground.set(json!({ "unauthenticated": false }));
    assert_eq!(ground.names().len(), 1, "nothing was removed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_comes_back_is_waited_for() {
    let ground = Fixture::with(|pace| pace.patience = LONG, json!({ "down": true }));
    let spec = spec(1);
    let launching = ground.backend.ensure(&spec);
    let starts = async {
        ground.eventually("it was asked", async |ground| ground.count("list") > 1).await;
        ground.set(json!({ "down": false }));
    };
    let (launched, ()) = tokio::join!(launching, starts);
    launched.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_list_after_a_failure_is_not_believed() {
    let ground = Fixture::with(|pace| pace.settle = Duration::from_secs(3), json!({}));
    let spec = spec(1);
    ground.backend.ensure(&spec).await.unwrap();
    ground.by_hand(&["--daemon", "stop"]);
    is_away(ground.backend.survey().await);
    ground.by_hand(&["--daemon", "start"]);
    ground.fault("list", json!("lists_nothing"), 1);
    is_away(ground.backend.survey().await);
    assert_eq!(ground.backend.survey().await.unwrap().len(), 1);
    // After a while it is.
    let name = ground.names().remove(0);
    ground.by_hand(&["delete", "--purge", &name]);
    ground
        .eventually("it is believed", async |ground| {
            ground.backend.survey().await.is_ok_and(|all| all.is_empty())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_daemon_suspended_when_it_ended_is_started_again() {
    let ground = Fixture::new();
    let spec = spec(1);
    ground.backend.ensure(&spec).await.unwrap();
    let interrupted = ground.backend.interrupted();
    tokio::pin!(interrupted);
    let _ = tokio::time::timeout(Duration::ZERO, &mut interrupted).await;
    ground.by_hand(&["--daemon", "stop"]);
    ground.set(json!({ "down": false }));
    assert_eq!(
        ground.backend.observe(spec.id).await,
        Ok(Observation::Stopped { exit_code: None, out_of_memory: false, by: EndedBy::Host })
    );
    ground.backend.survey().await.unwrap();
    tokio::time::timeout(LONG, interrupted).await.unwrap();
    ground.backend.start(spec.id).await.unwrap();
    assert!(ground.runs(spec.id).await);
    assert_eq!(ground.count("launch"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_never_ends_is_ended() {
    let ground = Fixture::with(|pace| pace.query = Duration::from_millis(1500), json!({}));
    let spec = spec(1);
    ground.backend.ensure(&spec).await.unwrap();
    ground.fault("list", json!("hang"), 1);
    let began = Instant::now();
    assert!(is_away(ground.backend.survey().await).contains("did not end"));
    assert!(began.elapsed() < LONG);
    assert!(ground.runs(spec.id).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_instance_that_spoils_the_list_hides_no_other() {
    let ground = Fixture::new();
    let specs = [spec(1), spec(2)];
    for spec in &specs {
        ground.backend.ensure(spec).await.unwrap();
    }
    ground.fault("list", json!({ "says": "cannot find something of vm9" }), 2);
    let seen = ground.backend.survey().await.unwrap();
    assert_eq!(seen.len(), 2, "{seen:?}");
    ground.nothing_forbidden_was_done();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_answers_slowly_holds_up_no_survey() {
    let ground = Fixture::new();
    let spec = spec(1);
    ground.backend.ensure(&spec).await.unwrap();
    ground.set(json!({ "addresses_ms": 3_600_000 }));
    assert!(matches!(
        ground.backend.survey().await.unwrap().values().next(),
        Some(Observation::Running { .. })
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_lets_nobody_in_has_an_address_all_the_same() {
    let ground = Fixture::new();
    let spec = spec(1);
    ground.backend.ensure(&spec).await.unwrap();
    ground.set(json!({ "no_way_in": true }));
    ground.backend.stop(spec.id, Duration::ZERO).await.unwrap();
    ground.backend.start(spec.id).await.unwrap();
    assert!(ground.runs(spec.id).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_is_too_old_is_not_used() {
    let ground = Fixture::of_release("1.9.2");
    let error = is_away(ground.backend.probe().await);
    assert!(error.contains("1.10.0 or newer"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_driver_s_guests_are_not_contained() {
    use golem_vm_provider::backend::Containment;
    let ground = Fixture::with(|_| {}, json!({ "driver": "lxd" }));
    let found = ground.backend.probe().await.unwrap();
    let Containment::Uncontained(reason) = found.containment else { panic!() };
    assert!(reason.contains("local.driver=qemu"), "{reason}");
    assert!(!found.enforced.contains(&"bandwidth".to_owned()));
}
