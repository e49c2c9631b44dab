//! Launches that go wrong, late, or otherwise than they say.

use std::time::Duration;

use golem_vm_provider::backend::{Backend as _, BackendError, InstanceSpec, Observation};
use serde_json::json;

use super::fixture::{Fixture, spec};

#[tokio::test(flavor = "multi_thread")]
async fn a_launch_that_fails_with_its_instance_running_has_succeeded() {
    for words in [
        "The following errors occurred:\ntimed out waiting for initialization to complete",
        "The following errors occurred:\nx: timed out waiting for response",
        "cannot connect to the multipass socket",
        "ssh connection failed: 'Timeout connecting to 10.1.2.3'",
    ] {
        let ground = Fixture::new();
        let spec = spec(1);
        ground.fault("launch", json!({ "fails_afterwards": words }), 1);
        ground.backend.ensure(&spec).await.unwrap();
        assert!(ground.runs(spec.id).await, "{words}");
        assert_eq!((ground.count("launch"), ground.count("delete")), (1, 0), "{words}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_dies_while_it_starts_is_told_and_removed() {
    let ground = Fixture::new();
    let spec = spec(1);
    ground.fault("launch", json!("dies"), 1);
    let error = ground.backend.ensure(&spec).await.unwrap_err();
    assert!(error.to_string().contains("shutdown called while starting"), "{error}");
    assert_eq!(ground.names(), [""; 0]);
    ground.backend.ensure(&spec).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_comes_late_is_waited_for() {
    let ground = Fixture::with(|_| {}, json!({ "prepare_ms": 700 }));
    let spec = spec(1);
    ground.fault("launch", json!("client_timeout"), 1);
    ground.backend.ensure(&spec).await.unwrap();
    assert!(ground.runs(spec.id).await);
    assert_eq!(ground.count("launch"), 1);
}

/// A launch that was given up, of an instance that comes all the same, later.
async fn given_up() -> (Fixture, InstanceSpec) {
    let ground = Fixture::with(
        |pace| pace.appear = Duration::from_millis(50),
        json!({ "prepare_ms": 1500 }),
    );
    let spec = spec(1);
    ground.fault("launch", json!("client_timeout"), 1);
    ground.backend.ensure(&spec).await.unwrap_err();
    (ground, spec)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_comes_when_nobody_waits_any_more_is_removed() {
    let (ground, spec) = given_up().await;
    // Its VM is given up, and nothing is there that could be removed.
    ground.backend.destroy(spec.id).await.unwrap();
    assert_eq!(ground.count("delete"), 0);
    ground.eventually("it has appeared", async |ground| !ground.names().is_empty()).await;
    // Not for anybody to see, and gone soon.
    assert!(ground.backend.survey().await.unwrap().is_empty());
    ground.eventually("it is removed", async |ground| ground.names().is_empty()).await;
    ground.nothing_forbidden_was_done();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_comes_beside_a_later_attempt_is_removed() {
    let (ground, spec) = given_up().await;
    ground.set(json!({ "prepare_ms": 20 }));
    ground.backend.ensure(&spec).await.unwrap();
    let mine = ground.names();
    ground.eventually("both are there", async |ground| ground.names().len() == 2).await;
    ground
        .eventually("one is left", async |ground| {
            ground.backend.survey().await.unwrap();
            ground.names() == mine
        })
        .await;
    assert!(ground.runs(spec.id).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_was_killed_goes_on_with_what_it_launched() {
    let mut ground = Fixture::with(|_| {}, json!({ "prepare_ms": 600 }));
    let spec = spec(1);
    {
        let launching = ground.backend.ensure(&spec);
        tokio::pin!(launching);
        // Its client is killed with it.
        ground
            .eventually("it is being launched", async |ground| {
                let _ = tokio::time::timeout(Duration::from_millis(20), &mut launching).await;
                ground.count("launch") == 1
            })
            .await;
        let _ = tokio::time::timeout(Duration::from_millis(150), &mut launching).await;
    }
    ground.restart();
    ground.backend.ensure(&spec).await.unwrap();
    assert!(ground.runs(spec.id).await);
    assert_eq!((ground.names().len(), ground.count("delete")), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_was_spoilt_is_not_used_again() {
    let ground = Fixture::with(|pace| pace.appear = Duration::from_millis(50), json!({}));
    let spec = spec(1);
    ground.fault("launch", json!("crash"), 2);
    ground.backend.ensure(&spec).await.unwrap();
    assert!(ground.runs(spec.id).await);
    let names: std::collections::BTreeSet<String> = ground
        .calls()
        .into_iter()
        .filter(|call| call[0] == "launch")
        .map(|call| call[2].clone())
        .collect();
    assert_eq!(names.len(), 3, "{names:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_t_be_had_is_told_at_once() {
    let ground = Fixture::new();
    let mut spec = spec(1);
    spec.image = golem_vm_provider::backend::ImageDigest::new("multipass:noimage");
    let missing = ground.backend.ensure(&spec).await;
    assert_eq!(missing, Err(BackendError::ImageMissing("noimage".to_owned())));
    spec.image = golem_vm_provider::backend::ImageDigest::new("multipass:24.04");
    ground.set(json!({ "kvm": false }));
    let error = ground.backend.ensure(&spec).await.unwrap_err();
    assert!(matches!(error, BackendError::Failed(_)), "{error}");
    assert!(error.to_string().contains("kvm_intel"), "what to do about it: {error}");
    assert_eq!(ground.count("launch"), 2, "each was tried once");
    assert_eq!(ground.backend.observe(spec.id).await, Ok(Observation::Absent));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_without_its_own_host_key_is_no_vm_of_ours() {
    let ground = Fixture::new();
    let spec = spec(1);
    ground.fault("launch", json!("ignores_user_data"), 1);
    let error = ground.backend.ensure(&spec).await.unwrap_err();
    assert!(error.to_string().contains("host key"), "{error}");
    ground.backend.destroy(spec.id).await.unwrap();
    assert_eq!(ground.names(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_stays_in_an_unknown_state_is_switched_off_and_on_once() {
    let ground = Fixture::with(|pace| pace.unknown = Duration::from_millis(500), json!({}));
    let spec = spec(1);
    ground.fault("launch", json!("stays_unknown"), 1);
    ground.backend.ensure(&spec).await.unwrap();
    assert!(ground.runs(spec.id).await);
    let calls = ground.calls();
    let forced = calls.iter().filter(|call| call[0] == "stop" && call[1] == "--force").count();
    assert_eq!((forced, ground.count("start"), ground.count("restart")), (1, 1, 0));

    // While it boots, nothing is wrong with it.
    ground.backend.stop(spec.id, Duration::ZERO).await.unwrap();
    ground.fault("start", json!("stays_unknown"), 2);
    let error = ground.backend.start(spec.id).await.unwrap_err();
    assert!(error.to_string().contains("switched off and on"), "{error}");
    let Ok(Observation::Broken { .. }) = ground.backend.observe(spec.id).await else {
        // It has just been switched on: it is pending, until it is not.
        return ground
            .eventually("it is broken", async |ground| {
                matches!(ground.backend.observe(spec.id).await, Ok(Observation::Broken { .. }))
            })
            .await;
    };
}

#[tokio::test(flavor = "multi_thread")]
async fn a_booting_instance_in_an_unknown_state_is_pending() {
    let ground = Fixture::with(|_| {}, json!({ "boot_ms": 1200 }));
    let spec = spec(1);
    ground.backend.ensure(&spec).await.unwrap();
    assert_eq!((ground.count("stop"), ground.count("delete"), ground.count("launch")), (0, 0, 1));
}
