//! For how long a VM is rented, and how it is had back.

use std::time::SystemTime;

use golem_vm_protocol::time::Timestamp;
use golem_vm_protocol::vm::{ExtendLease, Lease, LeaseTerms, OnExpiry};

use super::*;

const DAY: u64 = 24 * 3600;

fn vm_of(value: Value) -> Vm {
    serde_json::from_value(value).unwrap()
}

fn lease_of(vm: &Vm) -> Lease {
    vm.lease.clone().unwrap()
}

/// Seconds from now to the end of the lease.
fn left(lease: &Lease) -> u64 {
    lease.expires_at.unwrap().since(Timestamp::from(SystemTime::now())).as_secs()
}

async fn create(me: &Requestor, provider: &Provider, lease: Value) -> Result<Vm, ClientError> {
    let mut body = create_body("box");
    body["lease"] = lease;
    me.call(provider, Call::post(route::VMS, &body).unwrap()).await.map(vm_of)
}

async fn extend(
    me: &Requestor,
    provider: &Provider,
    expires_at: Timestamp,
) -> Result<Vm, ClientError> {
    let call = Call::post("/api/v1/vms/box/extend", &ExtendLease { expires_at }).unwrap();
    me.call(provider, call).await.map(vm_of)
}

async fn undelete(me: &Requestor, provider: &Provider, body: Value) -> Result<Vm, ClientError> {
    let call = Call::post("/api/v1/vms/box/undelete", &body).unwrap();
    me.call(provider, call).await.map(vm_of)
}

async fn lease_events(me: &Requestor, provider: &Provider) -> usize {
    let events = me.get(provider, "/api/v1/vms/box/events").await.unwrap();
    let events = events["events"].as_array().unwrap().iter();
    events.filter(|event| event["kind"] == "lease").count()
}

#[tokio::test]
async fn a_vm_has_the_lease_that_was_asked_for_and_else_the_providers() {
    let ground = Ground::new().await;
    let provider = ground.provider(|_| {}).await;
    let me = Requestor::new();
    let info = me.get(&provider, "/api/v1/provider/info").await.unwrap();
    let terms: LeaseTerms = serde_json::from_value(info["lease"].clone()).unwrap();
    let default = LeaseTerms { default_seconds: 7 * DAY, max_seconds: None, grace_seconds: DAY };
    assert_eq!(terms, default);

    let usual = lease_of(&create(&me, &provider, json!({})).await.unwrap());
    assert!((7 * DAY - 600..=7 * DAY).contains(&left(&usual)), "{usual:?}");
    assert_eq!((usual.on_expiry, usual.grace_seconds), (OnExpiry::Stop, DAY));
    assert!(usual.ended_at.is_none() && usual.erased_at.is_none() && !usual.ends_soon);
    // It is told in the list as well, and always the same moment.
    for _ in 0..3 {
        let list = me.get(&provider, route::VMS).await.unwrap();
        assert_eq!(lease_of(&vm_of(list[0].clone())), usual);
    }
    me.delete(&provider, "/api/v1/vms/box").await.unwrap();

    let asked =
        json!({"duration_seconds": 7200, "on_expiry": "destroy", "stop_when_idle_seconds": 600});
    let lease = lease_of(&create(&me, &provider, asked).await.unwrap());
    assert!((6600..=7200).contains(&left(&lease)), "{lease:?}");
    assert_eq!((lease.on_expiry, lease.stop_when_idle_seconds), (OnExpiry::Destroy, Some(600)));
    provider.end().await;
}

#[tokio::test]
async fn what_is_no_lease_is_told_field_by_field() {
    let ground = Ground::new().await;
    let provider = ground.provider(|_| {}).await;
    let me = Requestor::new();
    for (lease, pointer) in [
        (json!({"duration_seconds": 0}), "/lease/duration_seconds"),
        (json!({"duration_seconds": u64::MAX}), "/lease/duration_seconds"),
        (json!({"duration_seconds": "2h"}), "/lease/duration_seconds"),
        (json!({"on_expiry": "sell"}), "/lease/on_expiry"),
        (json!({"stop_when_idle_seconds": 1}), "/lease/stop_when_idle_seconds"),
    ] {
        let error = create(&me, &provider, lease.clone()).await.unwrap_err();
        let ClientError::Refused { problem, .. } = &error else { panic!("{error}") };
        assert_eq!(problem.code, ErrorCode::ValidationFailed, "{lease}");
        assert_eq!(problem.errors[0].pointer, pointer, "{lease}: {error}");
    }
    create(&me, &provider, json!({})).await.unwrap();
    let error = undelete(&me, &provider, json!({"duration_seconds": 0})).await.unwrap_err();
    assert_eq!(code(&error), ErrorCode::ValidationFailed);
    for body in [json!({}), json!({"expires_at": 5}), json!({"expires_at": "tomorrow"})] {
        let call = Call::post("/api/v1/vms/box/extend", &body).unwrap();
        let error = me.call(&provider, call).await.unwrap_err();
        assert_eq!(code(&error), ErrorCode::ValidationFailed, "{body}");
    }
    provider.end().await;
}

#[tokio::test]
async fn a_lease_is_extended_once_however_often_that_is_said() {
    let ground = Ground::new().await;
    let provider = ground.provider(|_| {}).await;
    let me = Requestor::new();
    let lease = lease_of(&create(&me, &provider, json!({"duration_seconds": 7200})).await.unwrap());
    let later = lease.expires_at.unwrap().plus(Duration::from_secs(3600));
    let extended = lease_of(&extend(&me, &provider, later).await.unwrap());
    assert_eq!(extended.expires_at, Some(later));
    assert_eq!(extend(&me, &provider, later).await.unwrap().lease, Some(extended.clone()));
    // Earlier moments, the past too, shorten nothing.
    for earlier in [lease.expires_at.unwrap(), Timestamp::from_unix_seconds(0)] {
        assert_eq!(extend(&me, &provider, earlier).await.unwrap().lease, Some(extended.clone()));
    }
    assert_eq!(lease_events(&me, &provider).await, 1);
    provider.end().await;
    // And over a restart.
    let provider = ground.provider(|_| {}).await;
    let found = lease_of(&extend(&me, &provider, later).await.unwrap()).expires_at.unwrap();
    let apart = found.since(later).max(later.since(found));
    assert!(apart < Duration::from_secs(1), "{found} and {later}");
    assert_eq!(lease_events(&me, &provider).await, 1);
    provider.end().await;
}

#[tokio::test]
async fn no_lease_is_longer_than_the_provider_gives() {
    let ground = Ground::new().await;
    let strict = |conditions: &mut Conditions| {
        conditions.leases.max = Some(Duration::from_secs(2 * 3600));
    };
    let provider = ground.provider(strict).await;
    let me = Requestor::new();
    let error = create(&me, &provider, json!({"duration_seconds": 7201})).await.unwrap_err();
    assert_eq!(code(&error), ErrorCode::LeaseTooLong);
    assert!(error.to_string().contains("at most 2 h"), "{error}");
    assert_eq!(me.get(&provider, route::VMS).await.unwrap(), json!([]));

    // What is not said is never too long.
    let lease = lease_of(&create(&me, &provider, json!({})).await.unwrap());
    assert!(left(&lease) <= 7200, "{lease:?}");
    let far = lease.expires_at.unwrap().plus(Duration::from_secs(DAY));
    let error = extend(&me, &provider, far).await.unwrap_err();
    assert_eq!(code(&error), ErrorCode::LeaseTooLong);
    me.delete(&provider, "/api/v1/vms/box?keep=true").await.unwrap();
    let error = undelete(&me, &provider, json!({"duration_seconds": DAY})).await.unwrap_err();
    assert_eq!(code(&error), ErrorCode::LeaseTooLong);
    assert!(left(&lease_of(&undelete(&me, &provider, json!({})).await.unwrap())) <= 7200);
    provider.end().await;
}

#[tokio::test]
async fn what_is_kept_can_be_had_back_and_nothing_else_until_then() {
    let ground = Ground::new().await;
    let provider = ground.provider(|_| {}).await;
    let (me, other) = (Requestor::new(), Requestor::new());
    let made = create(&me, &provider, json!({"duration_seconds": 7200})).await.unwrap();
    let path = "/api/v1/vms/box?keep=true";
    assert_eq!(code(&other.delete(&provider, path).await.unwrap_err()), ErrorCode::VmNotFound);

    let kept = vm_of(me.delete(&provider, path).await.unwrap());
    let lease = lease_of(&kept);
    assert_eq!((kept.status, &kept.id), (VmStatus::Stopped, &made.id));
    assert_eq!(
        lease.erased_at.unwrap().since(lease.ended_at.unwrap()),
        Duration::from_secs(lease.grace_seconds)
    );
    assert!(ground.ports.0.lock().unwrap().is_empty());
    assert_eq!(vm_of(me.delete(&provider, path).await.unwrap()), kept);
    // Its port, name and capacity are its own.
    assert_eq!(code(&me.create(&provider, "box").await.unwrap_err()), ErrorCode::NameTaken);
    assert_ne!(provider.store.reserved().await.unwrap(), Amount::default());
    for action in ["start", "restart"] {
        let error = me.post(&provider, &format!("/api/v1/vms/box/{action}")).await.unwrap_err();
        assert_eq!(code(&error), ErrorCode::StateConflict);
        assert!(error.to_string().contains("undelete"), "{error}");
    }
    let error = extend(&me, &provider, lease.erased_at.unwrap()).await.unwrap_err();
    assert_eq!(code(&error), ErrorCode::StateConflict);
    assert!(error.to_string().contains("undelete"), "{error}");

    let back = undelete(&me, &provider, json!({"duration_seconds": 3600})).await.unwrap();
    assert_eq!((back.status, &back.id), (VmStatus::Stopped, &made.id));
    assert_eq!((back.ssh_port, &back.host_key), (made.ssh_port, &made.host_key));
    let lease = lease_of(&back);
    assert!(lease.ended_at.is_none() && lease.erased_at.is_none());
    assert!((3000..=3600).contains(&left(&lease)), "{lease:?}");
    // Once more changes nothing, whatever is asked for.
    let again = undelete(&me, &provider, json!({"duration_seconds": 9000})).await.unwrap();
    assert_eq!(again, back);
    let started = me.post(&provider, "/api/v1/vms/box/start").await.unwrap();
    assert_eq!(started["status"], "running");

    // A kept one can be destroyed at once.
    me.delete(&provider, path).await.unwrap();
    assert_eq!(me.delete(&provider, "/api/v1/vms/box").await.unwrap(), Value::Null);
    assert_eq!(provider.store.reserved().await.unwrap(), Amount::default());
    let gone = me.delete(&provider, path).await.unwrap_err();
    assert_eq!(code(&gone), ErrorCode::VmNotFound);
    provider.end().await;
}

#[tokio::test]
async fn a_backend_that_hangs_keeps_no_answer_back_that_needs_none() {
    let ground = Ground::new().await;
    let provider = ground.provider(|_| {}).await;
    let me = Requestor::new();
    let vm = create(&me, &provider, json!({})).await.unwrap();
    for method in [Method::Stop, Method::Observe, Method::Ensure, Method::List] {
        ground.backend.script(method, Fault::Hang);
    }
    let stops = ground.backend.calls(Method::Stop);
    let stopping = Call::new(::http::Method::POST, "/api/v1/vms/box/stop");
    let stopping = me.call(&provider, stopping.timeout(Duration::from_secs(60)));
    let asking = async {
        while ground.backend.calls(Method::Stop) == stops {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        for path in [
            route::VMS.to_owned(),
            "/api/v1/vms/box".to_owned(),
            "/api/v1/vms/box/access".to_owned(),
            "/api/v1/vms/box/keys".to_owned(),
            "/api/v1/vms/box/events".to_owned(),
            route::vm_operation(vm.job_id.as_ref().unwrap()),
            "/api/v1/provider/info".to_owned(),
        ] {
            let call = Call::get(&path).timeout(Duration::from_secs(10));
            me.call(&provider, call).await.unwrap_or_else(|error| panic!("{path}: {error}"));
        }
    };
    tokio::select! {
        stopped = stopping => panic!("it does not hang: {stopped:?}"),
        () = asking => {}
    }
    provider.end().await;
}
