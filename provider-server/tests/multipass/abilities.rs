//! Suspend, snapshots, clones, sizes: on the releases that have them.

use std::time::Duration;

use golem_vm_protocol::vm::Ability;
use golem_vm_provider::backend::{Backend as _, BackendError, InstanceSpec, Limits, Observation};
use serde_json::json;

use super::fixture::{Fixture, key, spec};

/// A VM that is stopped.
async fn stopped(ground: &Fixture) -> (InstanceSpec, String) {
    let spec = spec(1);
    ground.backend.ensure(&spec).await.unwrap();
    ground.backend.stop(spec.id, Duration::ZERO).await.unwrap();
    let name = ground.names().remove(0);
    (spec, name)
}

#[tokio::test(flavor = "multi_thread")]
async fn abilities_are_those_of_the_release() {
    for (release, snapshots, clones) in [
        ("1.10.1", false, false),
        ("1.13.1", true, false),
        ("1.15.1", true, true),
        ("1.17.0", true, true),
    ] {
        let ground = Fixture::of_release(release);
        let abilities = ground.backend.probe().await.unwrap().abilities;
        let has = |ability| abilities.contains(&ability);
        assert!(
            has(Ability::Suspend) && has(Ability::Resize) && has(Ability::LiveKeys),
            "{release}"
        );
        assert_eq!(
            (has(Ability::Snapshots), has(Ability::Clone)),
            (snapshots, clones),
            "{release}"
        );
        for never in
            [Ability::Console, Ability::LiveSnapshots, Ability::LiveClone, Ability::LiveDiskResize]
        {
            assert!(!has(never), "{release} {never:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_suspended_goes_on_when_it_is_started() {
    for release in ["1.10.1", "1.16.3"] {
        let ground = Fixture::of_release(release);
        let spec = spec(1);
        ground.backend.ensure(&spec).await.unwrap();
        let suspend = ground.backend.suspend().unwrap();
        suspend.suspend(spec.id).await.unwrap();
        suspend.suspend(spec.id).await.unwrap();
        assert_eq!(ground.backend.observe(spec.id).await, Ok(Observation::Suspended));
        ground.backend.stop(spec.id, Duration::ZERO).await.unwrap();
        assert_eq!(
            ground.backend.observe(spec.id).await,
            Ok(Observation::Suspended),
            "its memory is kept"
        );
        let boots = ground.record(&ground.names()[0])["boots"].clone();
        ground.backend.start(spec.id).await.unwrap();
        assert!(ground.runs(spec.id).await);
        assert_eq!(ground.record(&ground.names()[0])["boots"], boots, "it was not booted");

        suspend.suspend(spec.id).await.unwrap();
        suspend.forget(spec.id).await.unwrap();
        suspend.forget(spec.id).await.unwrap();
        assert!(
            matches!(ground.backend.observe(spec.id).await, Ok(Observation::Stopped { .. })),
            "{release}"
        );
        ground.nothing_forbidden_was_done();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_brings_back_what_was_but_not_its_size_and_not_its_keys() {
    let ground = Fixture::new();
    let (spec, name) = stopped(&ground).await;
    let snapshots = ground.backend.snapshots().unwrap();
    let first = "1-before".parse().unwrap();
    snapshots.create(spec.id, &first).await.unwrap();
    snapshots.create(spec.id, &first).await.unwrap();
    let all = snapshots.list(spec.id).await.unwrap();
    assert_eq!(all.len(), 1);
    assert_eq!((&all[0].name, all[0].with_memory), (&first, false));
    assert!(all[0].created_at > std::time::SystemTime::UNIX_EPOCH);

    let limits = Limits { storage_mib: 10_240, ..spec.limits };
    ground.backend.resizes().unwrap().resize(spec.id, limits).await.unwrap();
    let newer = key();
    ground.backend.authorize(spec.id, std::slice::from_ref(&newer)).await.unwrap();
    ground.backend.start(spec.id).await.unwrap();
    ground.backend.stop(spec.id, Duration::ZERO).await.unwrap();
    snapshots.restore(spec.id, &first).await.unwrap();
    assert_eq!(ground.record(&name)["disk"], json!(10_u64 << 30), "what is rented stays so");
    ground.backend.start(spec.id).await.unwrap();
    assert_eq!(
        ground.told(&name, "keys").trim(),
        newer.as_str(),
        "a key that was taken away stays away"
    );

    let other = "other".parse().unwrap();
    assert_eq!(snapshots.restore(spec.id, &other).await, Err(BackendError::NoSnapshot(other)));
    snapshots.remove(spec.id, &first).await.unwrap();
    snapshots.remove(spec.id, &first).await.unwrap();
    assert!(snapshots.list(spec.id).await.unwrap().is_empty());
    ground.backend.destroy(spec.id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_release_can_t_do_is_told_in_a_sentence() {
    let ground = Fixture::of_release("1.12.2");
    let (spec, _) = stopped(&ground).await;
    let error = ground.backend.snapshots().unwrap().create(spec.id, &"a".parse().unwrap()).await;
    assert!(error.unwrap_err().to_string().contains("1.12.2"));
    let error =
        ground.backend.clones().unwrap().ensure_clone(spec.id, &super::fixture::spec(2)).await;
    assert!(error.unwrap_err().to_string().contains("1.12.2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clone_is_another_machine_before_anybody_is_let_in() {
    let ground = Fixture::new();
    let (source, name) = stopped(&ground).await;
    let twin = spec(2);
    let clones = ground.backend.clones().unwrap();
    clones.ensure_clone(source.id, &twin).await.unwrap();
    clones.ensure_clone(source.id, &twin).await.unwrap();
    assert_eq!(ground.count("clone"), 1);
    assert!(matches!(ground.backend.observe(twin.id).await, Ok(Observation::Stopped { .. })));
    let clone = ground.names().into_iter().find(|one| *one != name).unwrap();
    ground.backend.start(twin.id).await.unwrap();
    let access = twin.access.clone().unwrap();
    assert_eq!(ground.told(&clone, "host_key.pub").trim(), access.host_key.as_str());
    assert_eq!(ground.told(&clone, "keys").trim(), access.authorized_keys[0].as_str());
    assert!(matches!(ground.backend.observe(source.id).await, Ok(Observation::Stopped { .. })));

    // One that can't be told who it is does not stay up.
    let third = spec(3);
    clones.ensure_clone(source.id, &third).await.unwrap();
    ground.set(json!({ "no_way_in": true }));
    let mut ground = ground;
    ground.pace.verify = Duration::ZERO;
    ground.restart();
    ground.backend.start(third.id).await.unwrap_err();
    assert!(matches!(ground.backend.observe(third.id).await, Ok(Observation::Stopped { .. })));
    let missing = ground.backend.clones().unwrap().ensure_clone(spec(9).id, &spec(4)).await;
    assert_eq!(missing, Err(BackendError::NoInstance(spec(9).id)));
    ground.nothing_forbidden_was_done();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_size_holds_from_the_next_boot_on_and_a_disk_only_grows() {
    let ground = Fixture::new();
    let spec = spec(1);
    ground.backend.ensure(&spec).await.unwrap();
    let name = ground.names().remove(0);
    let resizes = ground.backend.resizes().unwrap();
    let limits = Limits { cpu_millis: 4000, memory_mib: 2048, storage_mib: 9216, ..spec.limits };
    resizes.resize(spec.id, limits).await.unwrap();
    assert_eq!(ground.record(&name)["cpus"], 2, "it runs");
    ground.backend.stop(spec.id, Duration::ZERO).await.unwrap();
    ground.backend.start(spec.id).await.unwrap();
    let record = ground.record(&name);
    assert_eq!(
        (&record["cpus"], &record["memory"], &record["disk"]),
        (&json!(4), &json!(2_u64 << 30), &json!(9_u64 << 30))
    );
    let smaller = Limits { storage_mib: 4096, ..limits };
    resizes.resize(spec.id, smaller).await.unwrap_err();
    resizes.resize(spec.id, limits).await.unwrap();
    ground.nothing_forbidden_was_done();
}
