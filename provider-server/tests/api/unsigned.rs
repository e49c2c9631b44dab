//! Requestors of the original, which sign nothing: served when the provider's owner says so, and then apart
//! from all that belongs to a key.

use golem_vm_protocol::route::{ROUTES, Service};
use serde_json::json;

use super::wire::Sent;
use super::*;

fn routes() -> impl Iterator<Item = &'static golem_vm_protocol::route::Route> {
    ROUTES.iter().filter(|route| route.service == Service::Provider)
}

#[tokio::test]
async fn where_they_are_not_allowed_nothing_of_theirs_is_served() {
    let ground = Ground::new().await;
    let provider = ground.provider(|_| {}).await;
    let create = create_body("box").to_string();
    for route in routes() {
        if route.caller == golem_vm_protocol::route::Caller::Everybody {
            continue;
        }
        let path = route.pattern.replace("{name}", "box").replace("{job_id}", "x");
        let got = Sent::unsigned(route.method, &path, &create).to(&provider).await;
        assert_eq!(got.code(), Some(ErrorCode::SignatureRequired), "{route:?}: {got:?}");
    }
    assert_eq!(provider.store.reserved().await.unwrap(), Amount::default());
    provider.end().await;
}

#[tokio::test]
async fn where_they_are_allowed_they_touch_nothing_that_belongs_to_a_key() {
    let ground = Ground::new().await;
    let provider = ground.provider_for(true, |_| {}).await;
    let owner = Requestor::new();
    let vm = owner.create(&provider, "box").await.unwrap();
    let before = owner.get(&provider, "/api/v1/vms/box").await.unwrap();
    let never = VmId::random().unwrap().to_string();

    // A VM of a key is not there for them, on every route.
    let job = vm.job_id.clone().unwrap();
    for route in routes().filter(|route| route.pattern.contains('{')) {
        for (there, nowhere) in [("box", "nox"), (vm.id.as_str(), never.as_str())] {
            let answers = [there, nowhere].map(async |name| {
                let path = route.pattern.replace("{name}", name).replace("{job_id}", &job);
                let got = Sent::unsigned(route.method, &path, "").to(&provider).await;
                assert!((400..500).contains(&got.status), "{} {path}: {got:?}", route.method);
                got.without(name)
            });
            let [there, nowhere] = answers;
            assert_eq!(there.await, nowhere.await, "{route:?}");
        }
    }
    let list = Sent::unsigned("GET", route::VMS, "").to(&provider).await;
    assert_eq!(list.body, "[]");

    // They have names of their own, and ids that are their names.
    let create = create_body("box").to_string();
    let made = Sent::unsigned("POST", route::VMS, &create).to(&provider).await;
    let made: Value = serde_json::from_str(&made.body).unwrap();
    assert_eq!((&made["id"], &made["status"]), (&json!("box"), &json!("running")));
    let list = Sent::unsigned("GET", route::VMS, "").to(&provider).await;
    let list: Value = serde_json::from_str(&list.body).unwrap();
    assert_eq!((list.as_array().unwrap().len(), &list[0]["id"]), (1, &json!("box")));
    let access = Sent::unsigned("GET", "/api/v1/vms/box/access", "").to(&provider).await;
    assert!(!access.body.contains(&vm.id) && access.body.contains("ssh_port"), "{access:?}");
    assert_ne!(made["ssh_port"], before["ssh_port"]);
    for (method, path) in [
        ("POST", "/api/v1/vms/box/stop"),
        ("POST", "/api/v1/vms/box/start"),
        ("DELETE", "/api/v1/vms/box"),
    ] {
        let got = Sent::unsigned(method, path, "").to(&provider).await;
        assert_eq!(got.status, 200, "{method} {path}: {got:?}");
    }
    assert_eq!(owner.get(&provider, "/api/v1/vms/box").await.unwrap(), before);

    // What anybody could do to the original's provider.
    for (method, path) in
        [("POST", "/api/v1/admin/shutdown"), ("GET", "/api/v1/summary"), ("GET", "/metrics")]
    {
        let got = Sent::unsigned(method, path, "").to(&provider).await;
        assert_eq!(got.status, 404, "{method} {path}: {got:?}");
    }
    provider.end().await;
}

#[tokio::test]
async fn a_key_sees_nothing_of_theirs() {
    let ground = Ground::new().await;
    let provider = ground.provider_for(true, |_| {}).await;
    let create = create_body("box").to_string();
    assert_eq!(Sent::unsigned("POST", route::VMS, &create).to(&provider).await.status, 200);
    let key = KeyPair::generate().unwrap();
    // Once it takes this, what is signed from now on is not stale.
    Requestor::new().get(&provider, route::VMS).await.unwrap();
    for (method, path) in [
        ("GET", "/api/v1/vms/box"),
        ("GET", "/api/v1/vms/box/access"),
        ("POST", "/api/v1/vms/box/stop"),
        ("DELETE", "/api/v1/vms/box"),
    ] {
        let got = Sent::signed(&key, &provider, method, path, "").to(&provider).await;
        assert_eq!(got.code(), Some(ErrorCode::VmNotFound), "{method} {path}: {got:?}");
    }
    assert_eq!(Sent::signed(&key, &provider, "GET", route::VMS, "").to(&provider).await.body, "[]");
    provider.end().await;
}

#[tokio::test]
async fn a_signature_that_fails_is_not_served_as_none() {
    let ground = Ground::new().await;
    let provider = ground.provider_for(true, |_| {}).await;
    let key = KeyPair::generate().unwrap();
    let create = create_body("box").to_string();
    let (method, target) = ("POST", route::VMS);
    let signed = || Sent::signed(&key, &provider, method, target, &create);
    let good: Vec<_> = signed().headers.iter().map(|(name, _)| name.clone()).collect();
    assert!(good.len() >= 4, "{good:?}");
    for name in ["signature", "signature-input"] {
        // Without it, with one that is broken, with one of another form.
        let mut stripped = signed();
        stripped.headers.retain(|(header, _)| header.as_str() != name);
        let mut broken = signed();
        let mut foreign = signed();
        for (headers, value) in
            [(&mut broken.headers, "sig1=:AAAA:"), (&mut foreign.headers, "other=()")]
        {
            let place = headers.iter_mut().find(|(header, _)| header.as_str() == name).unwrap();
            place.1 = ::http::HeaderValue::from_static(value);
        }
        for changed in [stripped, broken, foreign] {
            let plain =
                Sent { headers: changed.headers, ..Sent::unsigned(method, target, &create) };
            let got = plain.to(&provider).await;
            assert_eq!(got.code(), Some(ErrorCode::SignatureInvalid), "{name}: {got:?}");
        }
    }
    // Both cut out, and the recipient left.
    let mut cut = signed();
    cut.headers.retain(|(name, _)| !name.as_str().starts_with("signature"));
    let plain = Sent { headers: cut.headers, ..Sent::unsigned(method, target, &create) };
    assert_eq!(plain.to(&provider).await.code(), Some(ErrorCode::SignatureInvalid));
    // All of it cut out is an unsigned request, served as one: its reply is unsigned too, which the one who
    // signed notices.
    let got = Sent::unsigned("GET", route::VMS, "").to(&provider).await;
    assert_eq!((got.status, got.headers.contains_key("signature")), (200, false));
    assert_eq!(provider.store.reserved().await.unwrap(), Amount::default());
    provider.end().await;
}
