//! Suspending, snapshots, clones, other sizes, consoles, and a requestor's own cloud-init.

use golem_vm_protocol::vm::{
    Ability, ConsoleLog, ConsoleOutput, ConsoleReader, VmSnapshots, VmStatus,
};
use golem_vm_provider::backend::Capabilities;
use golem_vm_provider::vm::repository::VmRepository;

use super::wire::Sent;
use super::*;

fn vm_of(value: Value) -> Vm {
    serde_json::from_value(value).unwrap()
}

async fn ask(me: &Requestor, provider: &Provider, what: &str, body: Value) -> Value {
    let path = format!("/api/v1/vms/box/{what}");
    let asked = me.call(provider, Call::post(&path, &body).unwrap()).await;
    asked.unwrap_or_else(|error| panic!("{what}: {error}"))
}

async fn refused(me: &Requestor, provider: &Provider, what: &str, body: Value) -> ErrorCode {
    let path = format!("/api/v1/vms/box/{what}");
    code(&me.call(provider, Call::post(&path, &body).unwrap()).await.unwrap_err())
}

#[tokio::test]
async fn a_vm_says_what_can_be_done_with_it_and_it_is_done() {
    let ground = Ground::new().await;
    let provider = ground.provider(|_| {}).await;
    let me = Requestor::new();
    let vm = me.create(&provider, "box").await.unwrap();
    assert_eq!(vm.abilities, Ability::ALL.iter().copied().collect());
    assert!(!vm.suspended);

    let suspended = vm_of(ask(&me, &provider, "suspend", json!({})).await);
    assert_eq!((suspended.status, suspended.suspended), (VmStatus::Stopped, true));
    let snapshot = json!({"name": "first"});
    let code_of = refused(&me, &provider, "snapshots", snapshot.clone()).await;
    assert_eq!(code_of, ErrorCode::StateConflict);
    let resumed = vm_of(me.post(&provider, "/api/v1/vms/box/resume").await.unwrap());
    assert_eq!((resumed.status, resumed.suspended), (VmStatus::Running, false));

    let made = ask(&me, &provider, "snapshots", snapshot.clone()).await;
    let made: VmSnapshots = serde_json::from_value(made).unwrap();
    assert_eq!(made.snapshots.len(), 1);
    assert!(made.snapshots[0].with_memory && made.snapshots[0].bytes.is_some());
    let taken = refused(&me, &provider, "snapshots", snapshot).await;
    assert_eq!(taken, ErrorCode::SnapshotExists);
    let back = vm_of(ask(&me, &provider, "snapshots/first/restore", json!({})).await);
    assert_eq!(back.status, VmStatus::Running);
    for missing in ["second", "No-Name"] {
        let what = format!("snapshots/{missing}/restore");
        let code_of = refused(&me, &provider, &what, json!({})).await;
        assert_eq!(code_of, ErrorCode::SnapshotNotFound);
    }

    let size = |cpu, storage| json!({"resources": {"cpu": cpu, "memory": 1, "storage": storage}});
    let larger = vm_of(ask(&me, &provider, "resize", size(2, 11)).await);
    assert_eq!((larger.resources.cpu, larger.resources.storage), (2, 11));
    let code_of = refused(&me, &provider, "resize", size(2, 10)).await;
    assert_eq!(code_of, ErrorCode::DiskCannotShrink);
    let code_of = refused(&me, &provider, "resize", size(3, 11)).await;
    assert_eq!(code_of, ErrorCode::ValidationFailed);
    // What does not fit any more.
    let code_of = refused(&me, &provider, "snapshots/first/restore", json!({})).await;
    assert_eq!(code_of, ErrorCode::StateConflict);
    me.delete(&provider, "/api/v1/vms/box/snapshots/first").await.unwrap();
    let gone = me.delete(&provider, "/api/v1/vms/box/snapshots/first").await.unwrap_err();
    assert_eq!(code(&gone), ErrorCode::SnapshotNotFound);
    ask(&me, &provider, "resize", size(1, 11)).await;
    me.post(&provider, "/api/v1/vms/box/restart").await.unwrap();

    let clone = json!({"name": "second"});
    let call = |path| Call::post(path, &clone).unwrap().idempotency_key("k-1");
    let first = me.call(&provider, call("/api/v1/vms/box/clone?async=true")).await.unwrap();
    let second = vm_of(me.call(&provider, call("/api/v1/vms/box/clone")).await.unwrap());
    assert_eq!(first["vm_id"], json!(second.id));
    assert_eq!((second.status, second.resources.storage), (VmStatus::Running, 11));
    assert_ne!(second.host_key, vm.host_key);
    let taken = refused(&me, &provider, "clone", clone.clone()).await;
    assert_eq!(taken, ErrorCode::NameTaken);
    provider.end().await;
}

#[tokio::test]
async fn what_a_backend_can_not_is_told() {
    let ground = Ground::new().await;
    let all = ground.backend.probe().await.unwrap();
    ground.backend.set_capabilities(Capabilities { abilities: [].into(), ..all });
    let provider = ground.provider(|_| {}).await;
    let me = Requestor::new();
    let vm = me.create(&provider, "box").await.unwrap();
    assert!(vm.abilities.is_empty());
    let size = json!({"resources": {"cpu": 2, "memory": 1, "storage": 11}});
    for (what, body) in [
        ("suspend", json!({})),
        ("resume", json!({})),
        ("snapshots", json!({"name": "first"})),
        ("snapshots/first/restore", json!({})),
        ("clone", json!({"name": "second"})),
        ("resize", size),
        ("console/input", json!({"session": "", "number": 1, "data": "eA=="})),
    ] {
        assert_eq!(refused(&me, &provider, what, body).await, ErrorCode::NotSupported, "{what}");
    }
    for what in ["snapshots", "console", "console/stream"] {
        let error = me.get(&provider, &format!("/api/v1/vms/box/{what}")).await.unwrap_err();
        assert_eq!(code(&error), ErrorCode::NotSupported, "{what}");
        assert!(error.to_string().contains("the memory backend can't"), "{error}");
    }
    for (name, value) in [("cloud_init", "#cloud-config\n"), ("isolation", "vm")] {
        let mut body = create_body("second");
        body[name] = json!(value);
        let error = me.call(&provider, Call::post(route::VMS, &body).unwrap()).await.unwrap_err();
        assert_eq!(code(&error), ErrorCode::NotSupported, "{name}");
    }
    provider.end().await;
}

#[tokio::test]
async fn cloud_init_reaches_the_instance_and_is_part_of_the_request() {
    let ground = Ground::new().await;
    let provider = ground.provider(|_| {}).await;
    let me = Requestor::new();
    let mut body = create_body("box");
    body["cloud_init"] = json!("#cloud-config\npackages: [git]\n");
    let call = |body: &Value| {
        let call = Call::post(route::VMS, body).unwrap().idempotency_key("k-1");
        let (me, provider) = (&me, &provider);
        async move { me.call(provider, call).await }
    };
    let vm = vm_of(call(&body).await.unwrap());
    assert_eq!(vm_of(call(&body).await.unwrap()).id, vm.id);
    let spec = ground.backend.spec(InstanceId::of(vm.id.parse().unwrap())).unwrap();
    assert_eq!(spec.user_data.as_deref(), body["cloud_init"].as_str());
    assert!(!format!("{spec:?}").contains("packages"));
    body["cloud_init"] = json!("#cloud-config\n");
    assert_eq!(code(&call(&body).await.unwrap_err()), ErrorCode::IdempotencyMismatch);
    // It was needed until the VM was made: there may be passwords in it.
    let kept = VmRepository::all(&provider.store).await.unwrap();
    assert_eq!(kept[0].user_data, None);
    provider.end().await;
}

#[tokio::test]
async fn a_console_is_spoken_with() {
    let ground = Ground::new().await;
    let provider = ground.provider(|_| {}).await;
    let key = KeyPair::generate().unwrap();
    let me = Requestor(SignedClient::new(key.clone(), Arc::new(SystemClock)).unwrap());
    me.create(&provider, "box").await.unwrap();
    let sent = Sent::signed(&key, &provider, "GET", "/api/v1/vms/box/console/stream", "");
    let session = sent.nonce.unwrap().to_string();
    let talk = async {
        let input =
            |number: u64, data: &str| json!({"session": session, "number": number, "data": data});
        // The stream may not be open yet.
        let path = "/api/v1/vms/box/console/input";
        let hello = input(1, "aGVsbG8K");
        let mut typed = Err(ErrorCode::StateConflict);
        while typed == Err(ErrorCode::StateConflict) {
            let call = Call::post(path, &hello).unwrap();
            typed = me.call(&provider, call).await.map_err(|error| code(&error));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(typed, Ok(json!({"number": 1})));
        // Sent again, it is typed once; and nothing is left out.
        assert_eq!(ask(&me, &provider, "console/input", hello).await, json!({"number": 1}));
        let late = refused(&me, &provider, "console/input", input(3, "eA==")).await;
        assert_eq!(late, ErrorCode::StateConflict);
        assert_eq!(
            refused(&me, &provider, "console/input", input(0, "")).await,
            ErrorCode::ValidationFailed
        );
        // It is in the log, whoever reads it.
        loop {
            let log = me.get(&provider, "/api/v1/vms/box/console").await.unwrap();
            let log: ConsoleLog = serde_json::from_value(log).unwrap();
            if log.data.0.ends_with(b"hello\n") {
                assert!(log.data.0.starts_with(b"box login: ") && !log.truncated);
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        me.post(&provider, "/api/v1/vms/box/stop").await.unwrap();
    };
    let both = async { tokio::join!(sent.streamed(&provider), talk).0 };
    let got = tokio::time::timeout(Duration::from_secs(60), both).await.expect("no end");
    let mut reader = ConsoleReader::new(provider.id, &sent.nonce.unwrap());
    let mut pieces: Vec<ConsoleOutput> = Vec::new();
    reader.push(got.body.as_bytes(), &mut pieces).unwrap_or_else(|e| panic!("{e}: {got:?}"));
    let said: Vec<u8> = pieces.iter().flat_map(|piece| piece.data.0.clone()).collect();
    assert_eq!(said, b"hello\n");
    let ended = pieces.last().unwrap().ended.as_deref().unwrap();
    assert!(ended.contains("has ended"), "{ended}");
    let error = me.get(&provider, "/api/v1/vms/box/console/stream").await.unwrap_err();
    assert_eq!(code(&error), ErrorCode::StateConflict);
    provider.end().await;
}
