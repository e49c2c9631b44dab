//! A provider with several backends.

use golem_vm_protocol::vm::Isolation;
use golem_vm_provider::backend::Accelerator;

use super::*;

fn digest(number: u8) -> String {
    format!("sha256:{}", format!("{number:02x}").repeat(32))
}

/// A ground with emulated virtual machines beside the containers, both with an image of one name.
async fn ground() -> Ground {
    let machines =
        MemoryBackend::greeting().await.unwrap().standing_for(BackendKind::Qemu, Isolation::Vm);
    let accel = Accelerator { kind: "tcg".to_owned(), why: "a guest hung with KVM".to_owned() };
    machines.set_capabilities(Capabilities { accel: Some(accel), ..machines.capabilities() });
    machines.add_image(ImageDigest::new(digest(7)), 1);
    Ground { machines: Some((machines, ImageDigest::new(digest(7)))), ..Ground::new().await }
}

async fn create(
    me: &Requestor,
    provider: &Provider,
    name: &str,
    more: &[(&str, Value)],
) -> Result<Vm, ClientError> {
    let mut body = create_body(name);
    for (field, value) in more {
        body[*field] = value.clone();
    }
    let value = me.call(provider, Call::post(route::VMS, &body).unwrap()).await?;
    Ok(serde_json::from_value(value).unwrap())
}

#[tokio::test]
async fn a_create_gets_the_backend_that_has_what_it_asks_for() {
    let ground = ground().await;
    let provider = ground.provider(|_| {}).await;
    let me = Requestor::new();
    let made = async |name: &str, more: &[(&str, Value)]| {
        let vm = create(&me, &provider, name, more).await.unwrap();
        (vm.backend.unwrap(), vm.isolation.unwrap(), vm.accel, vm.image_digest.unwrap())
    };
    let container = ("memory".to_owned(), Isolation::Container, None, "sha256:aa".to_owned());
    let tcg = Some("tcg".to_owned());
    let machine = ("qemu".to_owned(), Isolation::Vm, tcg, digest(7));
    assert_eq!(made("first", &[]).await, container);
    assert_eq!(made("machine", &[("isolation", json!("vm"))]).await, machine);
    let exact = json!(format!("debian-12@{}", digest(7)));
    assert_eq!(made("exact", &[("image", exact.clone())]).await, machine);

    let refused = async |more: &[(&str, Value)]| {
        let error = create(&me, &provider, "refused", more).await.unwrap_err();
        (code(&error), error.to_string())
    };
    let other = ("image", json!(format!("debian-12@{}", digest(8))));
    let (word, text) = refused(&[other]).await;
    assert_eq!(word, ErrorCode::ImageNotOffered);
    assert!(text.contains(&digest(7)) && text.contains("sha256:aa"), "{text}");
    let as_container = [("isolation", json!("container")), ("image", exact)];
    assert_eq!(refused(&as_container).await.0, ErrorCode::ImageNotOffered);

    let info = me.get(&provider, route::PROVIDER_INFO).await.unwrap();
    let offers: Vec<_> = info["offers"].as_array().unwrap().iter().collect();
    let kinds: Vec<_> = offers.iter().map(|one| (&one["backend"], &one["isolation"])).collect();
    let (memory, qemu) = (json!("memory"), json!("qemu"));
    assert_eq!(kinds, [(&memory, &json!("container")), (&qemu, &json!("vm"))]);
    assert_eq!(offers[1]["accel"], "tcg");
    assert_eq!(offers[1]["images"][0]["digest"], digest(7));
    provider.end().await;
}

#[tokio::test]
async fn a_backend_that_is_away_takes_no_other_down_and_its_vms_are_kept() {
    let mut ground = ground().await;
    let me = Requestor::new();
    let provider = ground.provider(|_| {}).await;
    let vm = create(&me, &provider, "mine", &[("isolation", json!("vm"))]).await.unwrap();
    provider.end().await;

    ground.machines_away = Some("its program is gone".to_owned());
    let provider = ground.provider(|_| {}).await;
    let seen = me.get(&provider, "/api/v1/vms/mine").await.unwrap();
    assert_eq!((&seen["id"], &seen["backend"]), (&json!(vm.id), &json!("qemu")));
    let refused = me.post(&provider, "/api/v1/vms/mine/stop").await.unwrap_err();
    assert_eq!(code(&refused), ErrorCode::BackendUnavailable);
    assert!(refused.to_string().contains("its program is gone"), "{refused}");
    let none = create(&me, &provider, "more", &[("isolation", json!("vm"))]).await.unwrap_err();
    assert_eq!(code(&none), ErrorCode::NotSupported);
    assert_eq!(me.create(&provider, "other").await.unwrap().status, VmStatus::Running);

    // It is there again.
    let (machines, _) = ground.machines.clone().unwrap();
    let found = Found::new(machines.capabilities());
    let backend: Arc<dyn Backend> = Arc::new(machines);
    provider.backends.arrived(&Present { backend: Arc::clone(&backend), found });
    assert!(matches!(provider.backends.now()[1].standing, Standing::There(_)));
    assert_eq!(provider.rental.vms.take_up_of(backend).await.unwrap(), 1);
    let stopped = me.post(&provider, "/api/v1/vms/mine/stop").await.unwrap();
    assert_eq!(stopped["status"], "stopped");
    me.delete(&provider, "/api/v1/vms/mine").await.unwrap();
    provider.end().await;
}
