//! Every message as it goes over the wire, pinned in `golden/`: what the original programs send has
//! to stay readable, and what ours send has to stay what it is. `UPDATE_GOLDEN=1 cargo test -p
//! golem-vm-protocol --test wire_format` rewrites our side; look at the difference before keeping it.

#![allow(clippy::unwrap_used)]

mod golden_json;

use std::collections::BTreeSet;

use golden_json::Goldens;
use golem_vm_protocol::advertisement::{
    Advertisement, AdvertisementEntry, AdvertisementQuery, Endpoint, Offer, OfferedImage,
    Overcommit, PortCheckClaim, Prices, UnsignedAdvertisement, Withdrawn,
};
use golem_vm_protocol::attestation::PortAttestation;
use golem_vm_protocol::document::{DocumentDigest, Envelope};
use golem_vm_protocol::port_check::{
    AttestedCheckRequest, AttestedCheckResponse, CheckPortsRequest, CheckPortsResponse, NotProven,
    PortResult, ProofResult,
};
use golem_vm_protocol::port_proof::Challenge;
use golem_vm_protocol::port_ranges::PortRanges;
use golem_vm_protocol::provider::{
    Health, ProviderInfo, ResourceSummary, Summary, SummaryEnvironment, SummaryVm, ZERO_ADDRESS,
};
use golem_vm_protocol::signature::{
    Nonce, RequestParts, SignedHeaders, sign_request, sign_response, sign_stream, verify_request,
    verify_response, verify_stream,
};
use golem_vm_protocol::time::Timestamp;
use golem_vm_protocol::vm::{
    Ability, AcceptedOffer, Actor, Bytes, Cause, ChangeVmKeys, CloneVm, ConsoleInput, ConsoleLog,
    ConsoleOutput, ConsoleTaken, CreateSnapshot, CreateVmRequest, EventKind, ExtendLease,
    Isolation, KEEP_ALIVE, Lease, LeaseRequest, LeaseTerms, OnExpiry, Operation, OperationAccepted,
    OperationStatus, ResizeVm, StreamReader, StreamedEvent, UndeleteVm, Vm, VmAccess,
    VmAccessPending, VmEvent, VmEvents, VmKeys, VmSnapshot, VmSnapshots, VmStage, VmStats,
    VmStatus, stream_frame,
};
use golem_vm_protocol::{ErrorCode, FieldError, KeyPair, Problem, VmId, VmResources};
use http::HeaderMap;

const SSH_KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFNVfYX7Cot+kMYwYSSojUSqZLyb5bMwoHJ6uu2IBQMW ann@attic";
const SIZE: VmResources = VmResources { cpu: 1, memory: 1, storage: 10 };
/// 2026-11-21T00:33:16.155948Z.
const MOMENT: i64 = 1_795_221_196_155_948;

fn moment(seconds_later: i64) -> Timestamp {
    Timestamp::from_unix_micros(MOMENT + seconds_later * 1_000_000)
}

/// The test vectors' provider: the secret is 32 bytes of 0x01.
fn provider() -> KeyPair {
    KeyPair::from_secret_bytes([1; 32]).unwrap()
}

/// The test vectors' requestor: the secret is 32 bytes of 0x02.
fn requestor() -> KeyPair {
    KeyPair::from_secret_bytes([2; 32]).unwrap()
}

fn lease_terms() -> LeaseTerms {
    LeaseTerms { default_seconds: 604_800, max_seconds: Some(2_592_000), grace_seconds: 86_400 }
}

fn advertisement() -> Advertisement {
    Advertisement {
        lease: Some(lease_terms()),
        provider_id: provider().id(),
        sequence: 7,
        issued_at: moment(0),
        expires_at: moment(360),
        name: "attic".into(),
        country: "SE".into(),
        platform: "x86_64".into(),
        resources: VmResources { cpu: 2, memory: 21, storage: 69 },
        endpoints: vec![Endpoint::Direct {
            api: "192.0.2.1:7466".into(),
            ssh_host: "192.0.2.1".into(),
        }],
        offers: vec![Offer {
            backend: "docker".into(),
            isolation: Isolation::Container,
            accel: None,
            images: vec![OfferedImage {
                name: "debian-12".into(),
                digest: DocumentDigest::of(b"image").to_string(),
            }],
            egress: "internet".into(),
            enforced: vec!["cpu".into(), "memory".into(), "processes".into()],
            contained: true,
        }],
        prices: Prices {
            core_month: 5_000_000,
            gb_ram_month: 2_000_000,
            gb_storage_month: 100_000,
        },
        overcommit: Overcommit { cpu: 4.0, storage: 1.0 },
        port_check: Some(PortCheckClaim {
            checker: requestor().id(),
            checked_at: moment(-60),
            api: true,
            vm_ports: 100,
        }),
        attestations: Vec::new(),
    }
}

/// The key of the vectors' requestor plays the port checker.
fn attestation() -> PortAttestation {
    PortAttestation {
        provider_id: provider().id(),
        host: "192.0.2.1".into(),
        ports: PortRanges::fitting([7466, 50800, 50801]),
        observed_at: moment(0),
        expires_at: moment(1800),
    }
}

fn lease() -> Lease {
    Lease {
        expires_at: Some(moment(7_200)),
        on_expiry: OnExpiry::Stop,
        grace_seconds: 86_400,
        ends_soon: false,
        ended_at: None,
        erased_at: None,
        stop_when_idle_seconds: Some(1_800),
    }
}

fn vm() -> Vm {
    Vm {
        lease: Some(lease()),
        id: VmId::from_bytes([3; 16]).to_string(),
        name: "my-webserver".parse().unwrap(),
        status: VmStatus::Running,
        resources: SIZE,
        ip_address: Some("172.30.0.2".into()),
        ssh_port: Some(50800),
        created_at: moment(0).naive(),
        updated_at: moment(9).naive(),
        error_message: None,
        image: Some("debian-12".into()),
        image_digest: Some(DocumentDigest::of(b"image").to_string()),
        backend: Some("docker".into()),
        isolation: Some(Isolation::Container),
        accel: None,
        suspended: false,
        abilities: BTreeSet::new(),
        egress: Some("internet".into()),
        prices: Some(Prices {
            core_month: 5_000_000,
            gb_ram_month: 2_000_000,
            gb_storage_month: 100_000,
        }),
        host_key: Some(SSH_KEY.trim_end_matches(" ann@attic").parse().unwrap()),
        ssh_user: Some("ubuntu".into()),
        job_id: Some("op_1".into()),
    }
}

#[test]
fn what_the_original_sends_is_understood() {
    let mut captures = Goldens::open("original");
    let health: Health = captures.captured("discovery_health");
    assert_eq!(health.status, "healthy");
    let health: Health = captures.captured("port_checker_health");
    assert_eq!(health.status, "ok");

    let published: UnsignedAdvertisement = captures.received("advertise_request");
    assert_eq!(published.resources, VmResources { cpu: 2, memory: 21, storage: 69 });
    assert_eq!(published.platform.as_deref(), Some("x86_64"));
    let list: Vec<AdvertisementEntry> = captures.captured("advertisement_list");
    assert!(list.iter().all(|entry| !entry.verified && entry.document.is_none()));
    assert_eq!(list[0].created_at.to_string(), "2026-11-21T00:45:44.006473");
    captures.captured::<Withdrawn>("withdrawn");

    let check: CheckPortsRequest = captures.received("check_ports_request");
    assert_eq!(check.valid_ports().unwrap(), [50800, 50801]);
    let checked: CheckPortsResponse = captures.captured("check_ports_reply");
    assert_eq!(checked.results[&50801].error.as_deref(), Some("Connection refused"));

    let info: ProviderInfo = captures.captured("provider_info");
    assert_eq!(info.stream_payment_address, ZERO_ADDRESS);
    captures.captured::<Summary>("summary");

    let create: CreateVmRequest = captures.received("create_request");
    assert_eq!(create.validate().unwrap().resources, SIZE);
    captures.captured::<OperationAccepted>("create_accepted");
    for (name, status) in [
        ("vm_creating", VmStatus::Creating),
        ("vm_running", VmStatus::Running),
        ("vm_stopped", VmStatus::Stopped),
    ] {
        assert_eq!(captures.captured::<Vm>(name).status, status);
    }
    captures.captured::<VmAccess>("access");
    captures.captured::<VmAccessPending>("access_pending");
    for (name, status) in [
        ("job_creating", OperationStatus::Creating),
        ("job_ready", OperationStatus::Ready),
        ("job_failed", OperationStatus::Failed),
    ] {
        assert_eq!(captures.captured::<Operation>(name).status, status);
    }
    captures.assert_all_seen();
}

#[test]
fn what_we_send_stays_what_it_is() {
    let mut ours = Goldens::open("ours");
    discovery_messages(&mut ours);
    port_checker_messages(&mut ours);
    provider_messages(&mut ours);
    problems(&mut ours);
    ours.assert_all_seen();
}

fn discovery_messages(ours: &mut Goldens) {
    let advertisement = advertisement();
    let envelope = Envelope::seal(&advertisement, &provider()).unwrap();
    ours.pinned("advertisement", &advertisement);
    let entry = AdvertisementEntry {
        provider_id: provider().id().to_string(),
        ip_address: "192.0.2.1".into(),
        country: "SE".into(),
        resources: advertisement.resources,
        pricing: Some(serde_json::json!({"usd_per_core_month": 5.0})),
        created_at: moment(0).naive(),
        updated_at: moment(240).naive(),
        provider_name: Some("attic".into()),
        platform: Some("x86_64".into()),
        verified: true,
        last_seen: Some(moment(240)),
        expires_at: Some(moment(540)),
        document: Some(envelope),
    };
    ours.pinned("advertisement_entry", &entry);
    let query = AdvertisementQuery {
        cpu: Some(1),
        memory: Some(2),
        storage: Some(10),
        country: Some("SE".into()),
        platform: Some("x86_64".into()),
        isolation: Some(Isolation::Vm),
        accel: Some("kvm".into()),
        image: Some("debian-12".into()),
        max_usd_per_month: Some(12.5),
        limit: Some(20),
        cursor: Some("AQ".into()),
    };
    ours.pinned("advertisement_query", &query);
    ours.pinned("withdrawn", &Withdrawn { status: "success".into() });
    ours.pinned("health", &Health { status: "healthy".into() });
}

fn port_checker_messages(ours: &mut Goldens) {
    let request =
        CheckPortsRequest { provider_ip: Some("192.0.2.1".into()), ports: vec![50800, 7466] };
    ours.pinned("check_ports_request", &request);
    let closed = PortResult { accessible: false, error: Some("Connection timed out".into()) };
    let reply = CheckPortsResponse {
        success: true,
        results: [(7466, closed), (50800, PortResult { accessible: true, error: None })].into(),
        message: "Successfully verified 1 out of 2 ports".into(),
        checked_address: Some("192.0.2.1".into()),
        observed_address: Some("192.0.2.1".into()),
        checker_id: Some(requestor().id()),
        plain: true,
    };
    ours.pinned("check_ports_reply", &reply);

    let request = AttestedCheckRequest { host: None, ports: vec![7466, 50800, 50801, 50802] };
    ours.pinned("port_check_request", &request);
    ours.pinned("port_attestation", &attestation());
    let results = [
        (7466, ProofResult::proven()),
        (50800, ProofResult::proven()),
        (50801, ProofResult::proven()),
        (50802, ProofResult::not_proven(NotProven::NoAnswer, "Connection timed out")),
    ];
    let reply = AttestedCheckResponse {
        host: "192.0.2.1".into(),
        address: "192.0.2.1".into(),
        observed_address: "192.0.2.1".into(),
        checker_id: requestor().id(),
        results: results.into(),
        attestation: Some(Envelope::seal(&attestation(), &requestor()).unwrap()),
    };
    ours.pinned("port_check_reply", &reply);
}

fn provider_messages(ours: &mut Goldens) {
    let info = ProviderInfo {
        lease: Some(lease_terms()),
        provider_id: provider().id().to_string(),
        stream_payment_address: ZERO_ADDRESS.into(),
        glm_token_address: ZERO_ADDRESS.into(),
        ip_address: "192.0.2.1".into(),
        country: "SE".into(),
        platform: "x86_64".into(),
        name: Some("attic".into()),
        version: Some("0.1.0".into()),
        trusted_only: true,
        offers: advertisement().offers,
    };
    ours.pinned("provider_info", &info);
    let summary = Summary {
        status: "running".into(),
        resources: ResourceSummary { total: advertisement().resources, available: SIZE },
        pricing: advertisement().prices.into(),
        vms: vec![SummaryVm {
            id: vm().id,
            status: VmStatus::Running,
            ssh_port: Some(50800),
            resources: SIZE,
        }],
        env: SummaryEnvironment { environment: "production".into(), network: "mainnet".into() },
    };
    ours.pinned("summary", &summary);

    let create = CreateVmRequest {
        lease: Some(LeaseRequest {
            duration_seconds: Some(7_200),
            on_expiry: Some(OnExpiry::Stop),
            stop_when_idle_seconds: Some(1_800),
        }),
        name: "my-webserver".into(),
        resources: Some(SIZE),
        size: None,
        ssh_key: SSH_KEY.into(),
        ssh_keys: vec![SSH_KEY.replace("attic", "laptop")],
        image: Some("debian-12".into()),
        isolation: None,
        cloud_init: None,
        stream_id: None,
        offer: Some(AcceptedOffer { sequence: 7, digest: DocumentDigest::of(b"document") }),
    };
    ours.pinned("create_request", &create);
    let demanding = CreateVmRequest {
        image: Some(format!("debian-12@{}", DocumentDigest::of(b"image"))),
        isolation: Some(Isolation::Vm),
        cloud_init: Some("#cloud-config\npackages: [git]\n".into()),
        ssh_keys: Vec::new(),
        offer: None,
        lease: None,
        ..create.clone()
    };
    ours.pinned("create_request_vm", &demanding);
    ours.pinned("vm", &vm());
    let broken = Vm {
        status: VmStatus::Error,
        ip_address: None,
        error_message: Some("the instance is gone".into()),
        ..vm()
    };
    ours.pinned("vm_broken", &broken);
    let kept = Lease {
        ended_at: Some(moment(7_200)),
        erased_at: Some(moment(93_600)),
        ends_soon: true,
        ..lease()
    };
    let kept = Vm { status: VmStatus::Stopped, ip_address: None, lease: Some(kept), ..vm() };
    ours.pinned("vm_kept", &kept);
    let suspended = Vm {
        status: VmStatus::Stopped,
        ip_address: None,
        backend: Some("qemu".into()),
        isolation: Some(Isolation::Vm),
        accel: Some("kvm".into()),
        suspended: true,
        abilities: Ability::ALL.iter().copied().collect(),
        ..vm()
    };
    ours.pinned("vm_suspended", &suspended);
    let accepted =
        OperationAccepted { job_id: "op_1".into(), vm_id: vm().id, status: VmStatus::Creating };
    ours.pinned("create_accepted", &accepted);
    let failed = Operation {
        job_id: "op_1".into(),
        vm_id: vm().id,
        status: OperationStatus::Failed,
        error: Some("not enough memory is left".into()),
        created_at: moment(0),
        updated_at: moment(1),
        phase: Some("reserving".into()),
        code: Some(ErrorCode::InsufficientCapacity),
    };
    ours.pinned("operation", &failed);
    let access = VmAccess {
        ssh_host: "192.0.2.1".into(),
        ssh_port: 50800,
        vm_id: vm().id,
        multipass_name: format!("golem-{}", vm().id),
        ssh_user: Some("ubuntu".into()),
        host_key: vm().host_key,
    };
    let pending = VmAccessPending {
        vm_id: vm().id,
        multipass_name: access.multipass_name.clone(),
        status: VmStatus::Creating,
        ssh_port: None,
    };
    ours.pinned("access", &access);
    ours.pinned("access_pending", &pending);
    let stats = VmStats {
        vm_id: vm().id,
        measured_at: moment(10),
        cpu_percent: 12.5,
        memory_used_bytes: 100 << 20,
        memory_limit_bytes: 1 << 30,
        processes: 23,
        network_received_bytes: 1234,
        network_sent_bytes: 567,
        disk_used_bytes: Some(8 << 20),
    };
    ours.pinned("stats", &stats);
    let key: golem_vm_protocol::vm::SshPublicKey = SSH_KEY.parse().unwrap();
    let keys = VmKeys { vm_id: vm().id, keys: vec![key.clone().into()], applied: true };
    ours.pinned("keys", &keys);
    let change =
        ChangeVmKeys { add: vec![SSH_KEY.into()], remove: vec![key.fingerprint()], force: false };
    ours.pinned("keys_change", &change);
    lease_messages(ours);
    life_messages(ours);
    console_messages(ours);
}

fn life_messages(ours: &mut Goldens) {
    ours.pinned("snapshot_request", &CreateSnapshot { name: "before-upgrade".into() });
    let snapshot = VmSnapshot {
        name: "before-upgrade".parse().unwrap(),
        created_at: moment(60),
        with_memory: true,
        resources: SIZE,
        bytes: Some(734_003_200),
    };
    ours.pinned("snapshots", &VmSnapshots { vm_id: vm().id, snapshots: vec![snapshot] });
    let clone = CloneVm {
        name: "second".into(),
        ssh_key: SSH_KEY.into(),
        ssh_keys: Vec::new(),
        lease: Some(LeaseRequest { duration_seconds: Some(7_200), ..LeaseRequest::default() }),
    };
    ours.pinned("clone_request", &clone);
    let resources = VmResources { cpu: 2, memory: 4, storage: 20 };
    ours.pinned("resize_request", &ResizeVm { resources });
}

fn console_messages(ours: &mut Goldens) {
    let log = Bytes(b"Debian GNU/Linux 12 my-webserver ttyS0\r\n\r\nmy-webserver login: ".to_vec());
    ours.pinned("console_log", &ConsoleLog { vm_id: vm().id, data: log.clone(), truncated: true });
    let nonce = Nonce::from_bytes([4; 16]).to_string();
    let output =
        ConsoleOutput { nonce: nonce.clone(), number: 1, data: log, skipped: 0, ended: None };
    ours.pinned("console_output", &output);
    let end = ConsoleOutput {
        number: 2,
        data: Bytes::default(),
        skipped: 512,
        ended: Some("the VM has stopped".into()),
        ..output
    };
    ours.pinned("console_end", &end);
    let input = ConsoleInput { session: nonce, number: 1, data: Bytes(b"root\n".to_vec()) };
    ours.pinned("console_input", &input);
    ours.pinned("console_taken", &ConsoleTaken { number: 1 });
}

fn first_events() -> [VmEvent; 2] {
    let begun = VmEvent {
        vm_id: vm().id,
        number: 1,
        at: moment(0),
        steady_micros: 86_400_000_000,
        kind: EventKind::State,
        from: None,
        to: VmStage::Creating,
        actor: Actor::Requestor,
        cause: Cause::Requested,
        detail: None,
        resources: SIZE,
        delivered_micros: 0,
    };
    let runs = VmEvent {
        number: 2,
        at: moment(9),
        steady_micros: 86_409_000_000,
        from: Some(VmStage::Creating),
        to: VmStage::Running,
        actor: Actor::Provider,
        cause: Cause::Completed,
        detail: Some("SSH answers".into()),
        ..begun.clone()
    };
    [begun, runs]
}

fn lease_messages(ours: &mut Goldens) {
    ours.pinned("extend_request", &ExtendLease { expires_at: moment(18_000) });
    ours.pinned("undelete_request", &UndeleteVm { duration_seconds: Some(7_200) });
    let [begun, runs] = first_events();
    let streamed =
        StreamedEvent { nonce: Nonce::from_bytes([4; 16]).to_string(), event: runs.clone() };
    ours.pinned("vm_events", &VmEvents { events: vec![begun, runs], next: Some(2) });
    ours.pinned("streamed_event", &streamed);
}

fn problems(ours: &mut Goldens) {
    let mut problem = Problem::new(ErrorCode::VmNotFound, "VM my-webserver: Not Found");
    problem.request_id = Some("r-1".into());
    ours.pinned("problem", &problem);
    let problem = Problem::validation(vec![
        FieldError::new("/name", "a VM name is 3 to 64 characters"),
        FieldError::new("?limit", "1 to 1000"),
    ]);
    ours.pinned("problem_validation", &problem);
    let problem = Problem {
        server_time: Some(moment(0)),
        ..Problem::new(ErrorCode::ClockSkew, "your clock is 5 min 12 s ahead of this server's")
    };
    ours.pinned("problem_clock_skew", &problem);
    let codes: Vec<_> =
        ErrorCode::ALL.iter().map(|code| (code.as_str(), code.status(), code.title())).collect();
    ours.pinned_text("error_codes", &codes);
}

fn listed(headers: &SignedHeaders) -> Vec<(String, String)> {
    headers
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
        .collect()
}

/// Vectors for other implementations of the profile: with these inputs, exactly these texts.
#[test]
fn vectors_hold() {
    let mut vectors = Goldens::open("vectors");
    let ids = serde_json::json!({
        "keys": [
            {"secret_hex": "01".repeat(32), "id": provider().id()},
            {"secret_hex": "02".repeat(32), "id": requestor().id()},
        ],
        "vm_ids": [
            {"bytes_hex": "00".repeat(16), "id": VmId::from_bytes([0; 16])},
            {"bytes_hex": "03".repeat(16), "id": VmId::from_bytes([3; 16])},
            {"bytes_hex": "ff".repeat(16), "id": VmId::from_bytes([0xff; 16])},
        ],
    });
    vectors.pinned_text("ids", &ids);

    let envelope = Envelope::seal(&advertisement(), &provider()).unwrap();
    let digest = envelope.open::<Advertisement>().unwrap().digest;
    let payload = String::from_utf8(envelope.payload_bytes().unwrap()).unwrap();
    let document = serde_json::json!({
        "secret_hex": "01".repeat(32),
        "signed_prefix": "golem-advertisement-v1\0",
        "payload": payload,
        "digest": digest,
        "envelope": envelope,
    });
    vectors.pinned_text("document", &document);

    let signed: Vec<_> = [None, Some("0f2c7d6e")].map(request_vector).into();
    vectors.pinned_text("signature", &signed);

    let dialled = "192.0.2.1:50800".parse().unwrap();
    let challenge = Challenge::new(Nonce::from_bytes([4; 16]), requestor().id(), dialled);
    let proof = challenge.answer(&provider(), dialled);
    assert_eq!(proof.verify(&challenge, dialled, provider().id()), Ok(()));
    let proof = serde_json::json!({
        "provider_secret_hex": "01".repeat(32),
        "signed_prefix": "golem-port-proof-v1\0",
        "challenge": challenge.to_string(),
        "proof": proof.to_string(),
    });
    vectors.pinned_text("port_proof", &proof);
    vectors.pinned_text("stream", &stream_vector());
    vectors.assert_all_seen();
}

/// A stream that answers the first request of `signature.json`.
fn stream_vector() -> serde_json::Value {
    const CREATED: u64 = 1_795_221_197;
    let nonce = Nonce::from_bytes([4; 16]);
    let parts = RequestParts::new("GET", "/api/v1/vms", b"");
    let recipient = provider().id().to_string();
    let (_, request) =
        sign_request(&requestor(), &parts, &recipient, None, CREATED - 1, nonce).unwrap();
    let head = sign_stream(&provider(), &request, CREATED);
    let map: HeaderMap = head.iter().cloned().collect();
    assert_eq!(verify_stream(200, &map, &request), Ok(provider().id()));
    let frames: String = first_events()
        .iter()
        .map(|event| stream_frame(event, &nonce.to_string(), &provider()).unwrap() + KEEP_ALIVE)
        .collect();
    let mut reader = StreamReader::new(provider().id(), nonce, &"my-webserver".parse().unwrap(), 0);
    let mut read = Vec::new();
    reader.push(frames.as_bytes(), &mut read).unwrap();
    assert_eq!(read, first_events());
    serde_json::json!({
        "secret_hex": "01".repeat(32),
        "status": 200,
        "created": CREATED,
        "headers": listed(&head),
        "body": frames,
    })
}

fn request_vector(idempotency_key: Option<&str>) -> serde_json::Value {
    const CREATED: u64 = 1_795_221_196;
    const BODY: &str = r#"{"name":"my-webserver"}"#;
    const REPLY: &str = r#"{"job_id":"op_1","vm_id":"vm_1","status":"creating"}"#;
    let (target, body) = if idempotency_key.is_some() {
        ("/api/v1/vms?async=true", BODY)
    } else {
        ("/api/v1/vms", "")
    };
    let method = if body.is_empty() { "GET" } else { "POST" };
    let parts = RequestParts::new(method, target, body.as_bytes());
    let recipient = provider().id().to_string();
    let nonce = Nonce::from_bytes([4; 16]);
    let (headers, signature) =
        sign_request(&requestor(), &parts, &recipient, idempotency_key, CREATED, nonce).unwrap();
    let map: HeaderMap = headers.iter().cloned().collect();
    assert_eq!(verify_request(&parts, &map).unwrap().unwrap().signer, requestor().id());

    let reply = sign_response(&provider(), 202, REPLY.as_bytes(), &signature, CREATED + 1);
    let map: HeaderMap = reply.iter().cloned().collect();
    let signer = verify_response(202, &map, REPLY.as_bytes(), &signature).unwrap();
    assert_eq!(signer, provider().id());
    serde_json::json!({
        "request": {
            "secret_hex": "02".repeat(32),
            "method": method,
            "target": target,
            "body": body,
            "recipient": recipient,
            "idempotency_key": idempotency_key,
            "created": CREATED,
            "nonce": nonce.to_string(),
            "headers": listed(&headers),
        },
        "reply": {
            "secret_hex": "01".repeat(32),
            "status": 202,
            "body": REPLY,
            "created": CREATED + 1,
            "headers": listed(&reply),
        },
    })
}
