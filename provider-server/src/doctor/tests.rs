#![allow(clippy::unwrap_used)]
//! Every sentence, over facts that no machine has to have.

mod backends;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use golem_vm_node::clock::{Clock, ManualClock, SystemClock};
use golem_vm_node::data_dir::DataDir;
use golem_vm_node::settings::{Settings, SettingsSource};
use golem_vm_protocol::route;
use golem_vm_protocol::time::Timestamp;
use golem_vm_protocol::vm::Isolation;

use super::*;
use crate::backend::memory::MemoryBackend;
use crate::backend::{
    Backend, BackendChoice, BackendKind, Capabilities, Containment, Finding, ImageDetails,
    ImageDigest,
};
use crate::capacity::{Amount, Booked, Books};
use crate::config::{Config, TABLE};
use crate::control::messages::{DiscoveryStatus, PortsStatus};
use crate::forwarder::wire::Hello;
use crate::host::HostResources;
use crate::images::ImageInfo;
use crate::images::ImageRow;
use crate::store::ProviderStore;

const GIB: u64 = 1024;

fn image(name: &str, offered: bool, there: bool) -> ImageInfo {
    ImageInfo {
        row: ImageRow {
            name: name.to_owned(),
            digest: ImageDigest::new("sha256:1"),
            backend: BackendKind::Docker,
            built: true,
            created_at: Timestamp::from_unix_seconds(1_800_000_000),
        },
        details: ImageDetails { size_bytes: there.then_some(1), ..ImageDetails::default() },
        offered,
    }
}

const DAY: Duration = Duration::from_secs(24 * 3600);

fn one_vm() -> Books {
    let vm = Booked {
        id: "vm_a".to_owned(),
        owner: "me".to_owned(),
        name: "box".to_owned(),
        holds: amount(1, 1, 10),
        is_held: true,
    };
    Books { vms: vec![vm], ports: vec![(50_800, "vm_a".to_owned())], ..Books::default() }
}

/// A machine on which everything is well.
fn well() -> Facts {
    let peer = |url: &str| Peer { url: url.to_owned(), answer: Ok(Some(0)) };
    Facts {
        choice: BackendChoice::Named(vec![BackendKind::Docker]),
        backends: vec![BackendFacts {
            kind: BackendKind::Docker,
            found: Ok(backends::can(Isolation::Container, "Docker Engine 20.10")),
            in_use: true,
        }],
        trust: Trust { allow_uncontained: false, trusted: 0 },
        images: Ok(vec![image("debian-12", true, true)]),
        default_image: "debian-12".to_owned(),
        clock: ClockFacts {
            now: Timestamp::from_unix_seconds(1_800_000_000),
            key_written: Some(Timestamp::from_unix_seconds(1_790_000_000)),
        },
        key: KeyFacts { path: "/d/key".into(), state: Ok(true) },
        host: Ok(HostResources {
            cpus: 4,
            memory_total_mib: 16 * GIB,
            memory_available_mib: 15 * GIB,
            disk_total_mib: 100 * GIB,
            disk_free_mib: 90 * GIB,
        }),
        vm_data: "/var/lib/docker".into(),
        own_disk: None,
        capacity: CapacityFacts {
            offered: Ok(amount(4, 15, 80)),
            reserved: Some(amount(1, 1, 10)),
            overcommit_storage: 1.0,
        },
        books: Some(Books { reserved: amount(1, 1, 10), ..one_vm() }),
        instances: vec![(
            BackendKind::Docker,
            Ok(InstanceFacts { count: 1, grace: DAY, ..InstanceFacts::default() }),
        )],
        stopped: Vec::new(),
        forwarder: ForwarderFacts {
            program: Ok("/bin/golem-forwarder".into()),
            hello: Ok(None),
            successor: None,
        },
        ports: PortsFacts::Looked(LookedAtPorts {
            first: 50_800,
            last: 50_899,
            held: 0,
            free: 100,
            taken: Vec::new(),
            verify: true,
        }),
        checkers: vec![peer("http://checker:9000")],
        discovery: vec![peer("http://discovery:9001")],
        advertised: Vec::new(),
        running: false,
    }
}

fn amount(cpu: u64, memory: u64, storage: u64) -> Amount {
    Amount { cpu_millis: cpu * 1000, memory_mib: memory * GIB, storage_mib: storage * GIB }
}

fn engine(facts: &mut Facts) -> &mut Capabilities {
    facts.backends[0].found.as_mut().unwrap()
}

fn uncontained(facts: &mut Facts) {
    engine(facts).containment = Containment::Uncontained("guests can reach this host".to_owned());
}

fn known_ports(bound: u32, usable: u32, problems: &[&str]) -> PortsFacts {
    PortsFacts::Known(PortsStatus {
        first: 50_800,
        last: 50_899,
        bound,
        usable,
        in_use: 1,
        verified_from_outside: true,
        verified_at: None,
        checkers: Vec::new(),
        problems: problems.iter().map(|text| (*text).to_owned()).collect(),
    })
}

fn hello() -> Hello {
    Hello {
        protocol_version: 1,
        version: "0.1.0".to_owned(),
        pid: 7,
        started_unix_ms: 0,
        start_ticks: None,
        uptime_ms: 0,
        proofs: true,
        build: Some("1".to_owned()),
        program: None,
    }
}

#[test]
fn a_healthy_machine_has_nothing_to_say() {
    let checks = examine(&well());
    let ill: Vec<_> = checks.iter().filter(|check| check.verdict != Verdict::Good).collect();
    assert!(ill.is_empty(), "{ill:?}");
    assert!(checks.iter().all(|check| check.remedy.is_none()));
    let mut subjects: Vec<_> = checks.iter().map(|check| check.subject.as_str()).collect();
    subjects.dedup();
    let expected = [
        "engine",
        "limits",
        "containment",
        "images",
        "clock",
        "disk",
        "memory",
        "capacity",
        "ledger",
        "instances",
        "key",
        "forwarder",
        "ports",
        "port checkers",
        "discovery",
    ];
    assert_eq!(subjects, expected);
    assert_eq!(verdict(&checks), Verdict::Good);
}

type Change = fn(&mut Facts);

#[test]
fn what_is_wrong_is_said_with_what_to_do() {
    // What is changed about a healthy machine; the check that notices it; how bad that is; a part
    // of what it says, and of what to do.
    let table: &[(Change, &str, Verdict, &str, &str)] = &[
        (
            |f| f.stopped = vec![("web".to_owned(), "it used more than 11 GB of disk".to_owned())],
            "stopped VMs",
            Verdict::Warning,
            "web: it used more than 11 GB",
            "who rents it was told",
        ),
        (
            |f| f.books.as_mut().unwrap().reserved.cpu_millis = 2000,
            "ledger",
            Verdict::Bad,
            "2 vCPUs, 1 GB of memory, 10 GB of disk are reserved, and the 1 VMs add up to 1 vCPUs",
            "put back the newest backup",
        ),
        (
            |f| {
                let orphan = "golem-vm_00000000000000000000000000".parse().unwrap();
                let hour = Duration::from_secs(3600);
                let found = f.instances[0].1.as_mut().unwrap();
                found.orphans = vec![(orphan, Some(hour))];
            },
            "instances",
            Verdict::Warning,
            "golem-vm_00000000000000000000000000 (noticed 1 h 0 min ago)",
            "removed 1 d 0 h after it was noticed (GOLEM_PROVIDER_ORPHAN_GRACE)",
        ),
        (
            |f| {
                let found = f.instances[0].1.as_mut().unwrap();
                found.missing = ["a", "b", "c", "d"].map(str::to_owned).to_vec();
            },
            "instances",
            Verdict::Warning,
            "gone from the backend docker, with their disks: a; b; c; and 1 more",
            "on another engine",
        ),
        (
            |f| f.instances[0].1 = Err("away".to_owned()),
            "instances",
            Verdict::Warning,
            "could not be compared with the VMs: away",
            "put that right",
        ),
        (
            |f| f.backends[0].found = Err("the Docker Engine does not answer".to_owned()),
            "engine",
            Verdict::Bad,
            "does not answer",
            "install and start the Docker Engine",
        ),
        (
            |f| {
                let found = Finding::bad("swap limit", "guests can use swap", "turn it off");
                engine(f).findings.push(found);
            },
            "swap limit",
            Verdict::Warning,
            "guests can use swap",
            "turn it off",
        ),
        (
            |f| {
                let found = Finding::bad("networks", "no network can be made", "look at the log");
                engine(f).findings.push(found);
            },
            "networks",
            Verdict::Bad,
            "no network can be made",
            "look at the log",
        ),
        (
            |f| engine(f).enforced = vec!["cpu".to_owned()],
            "limits",
            Verdict::Warning,
            "not enforced, and advertised so: memory, processes",
            "requestors you trust",
        ),
        (
            uncontained,
            "containment",
            Verdict::Bad,
            "nobody can rent here",
            "GOLEM_PROVIDER_TRUSTED_REQUESTORS",
        ),
        (
            |f| {
                uncontained(f);
                f.trust.trusted = 2;
            },
            "containment",
            Verdict::Warning,
            "only the 2 requestors",
            "GOLEM_PROVIDER_ALLOW_UNCONTAINED=true",
        ),
        (
            |f| {
                uncontained(f);
                f.trust.allow_uncontained = true;
            },
            "containment",
            Verdict::Warning,
            "Strangers are served all the same",
            "unset GOLEM_PROVIDER_ALLOW_UNCONTAINED",
        ),
        (
            |f| f.images = Ok(Vec::new()),
            "images",
            Verdict::Bad,
            "no image",
            "golem-provider image build debian-12",
        ),
        (
            |f| f.images = Ok(vec![image("mine", false, true)]),
            "images",
            Verdict::Bad,
            "none of the images (mine)",
            "GOLEM_PROVIDER_IMAGES",
        ),
        (
            |f| f.images = Ok(vec![image("debian-12", true, false)]),
            "images",
            Verdict::Bad,
            "no longer on the backend docker",
            "image build debian-12",
        ),
        (
            |f| f.default_image = "noble".to_owned(),
            "images",
            Verdict::Warning,
            "ubuntu-24.04 is not among them",
            "image build ubuntu-24.04",
        ),
        (
            |f| f.images = Err("the engine can't be asked".to_owned()),
            "images",
            Verdict::Warning,
            "could not be listed",
            "again",
        ),
        (
            |f| {
                f.discovery[0].answer = Ok(Some(-300));
                f.checkers.clear();
                if let PortsFacts::Looked(looked) = &mut f.ports {
                    looked.verify = false;
                }
            },
            "clock",
            Verdict::Bad,
            "300 s behind the clock of http://discovery:9001",
            "NTP",
        ),
        (
            |f| f.clock.now = Timestamp::from_unix_seconds(1000),
            "clock",
            Verdict::Bad,
            "never set",
            "NTP",
        ),
        (
            |f| f.clock.key_written = Some(Timestamp::from_unix_seconds(1_900_000_000)),
            "clock",
            Verdict::Bad,
            "before this provider's key was made",
            "NTP",
        ),
        (
            |f| f.host.as_mut().unwrap().disk_free_mib = 500,
            "disk",
            Verdict::Bad,
            "0.4 of 100 GB free on /var/lib/docker: too little",
            "OFFER_STORAGE",
        ),
        (
            |f| f.host.as_mut().unwrap().disk_free_mib = 60 * GIB,
            "disk",
            Verdict::Warning,
            "70 GB are still on offer",
            "OFFER_STORAGE",
        ),
        (
            |f| f.own_disk = Some(DiskFacts { path: "/small".into(), free_mib: 1 }),
            "disk",
            Verdict::Bad,
            "free on /small",
            "GOLEM_PROVIDER_DATA_DIR",
        ),
        (
            |f| f.host.as_mut().unwrap().memory_available_mib = 10 * GIB,
            "memory",
            Verdict::Warning,
            "14 GB are still on offer",
            "OFFER_MEMORY",
        ),
        (
            |f| f.host.as_mut().unwrap().memory_available_mib = 64,
            "memory",
            Verdict::Bad,
            "too little",
            "end other programs",
        ),
        (
            |f| f.capacity.offered = Err("GOLEM_PROVIDER_OFFER_CPU offers 9".to_owned()),
            "capacity",
            Verdict::Bad,
            "OFFER_CPU offers 9",
            "does not start with it",
        ),
        (
            |f| f.capacity.reserved = Some(amount(5, 1, 1)),
            "capacity",
            Verdict::Warning,
            "that is more than the 4 vCPUs",
            "nothing more is rented out",
        ),
        (
            |f| {
                f.capacity.offered =
                    Ok(Amount { cpu_millis: 4000, memory_mib: 1023, storage_mib: GIB * 80 })
                        .inspect(|_| f.capacity.reserved = Some(Amount::default()))
            },
            "capacity",
            Verdict::Bad,
            "no VM fits",
            "offer more",
        ),
        (
            |f| f.key.state = Err("other users can read it; run chmod".to_owned()),
            "key",
            Verdict::Bad,
            "other users can read it",
            "run chmod",
        ),
        (
            |f| f.forwarder.program = Err("golem-forwarder is not there".to_owned()),
            "forwarder",
            Verdict::Bad,
            "not there",
            "GOLEM_PROVIDER_FORWARDER",
        ),
        (
            |f| {
                f.forwarder.program = Err("golem-forwarder is not there".to_owned());
                f.forwarder.hello = Ok(Some(hello()));
            },
            "forwarder",
            Verdict::Warning,
            "process 7 runs, but could not be started again",
            "install golem-forwarder",
        ),
        (
            |f| f.forwarder.hello = Ok(Some(Hello { build: None, ..hello() })),
            "forwarder",
            Verdict::Warning,
            "too old to be upgraded",
            "no SSH session",
        ),
        (
            |f| {
                f.forwarder.hello = Ok(Some(hello()));
                f.forwarder.successor = Some("/new/golem-forwarder".into());
            },
            "forwarder",
            Verdict::Warning,
            "/new/golem-forwarder is another build",
            "--upgrade",
        ),
        (
            |f| f.forwarder.hello = Err("it speaks another version".to_owned()),
            "forwarder",
            Verdict::Bad,
            "another version",
            "end that process",
        ),
        (|f| f.running = true, "forwarder", Verdict::Bad, "none answers", "forwarder.log"),
        (
            |f| f.ports = known_ports(0, 0, &["all taken"]),
            "ports",
            Verdict::Bad,
            "all taken",
            "RANGE",
        ),
        (
            |f| f.ports = known_ports(100, 0, &["no answer"]),
            "ports",
            Verdict::Bad,
            "no answer",
            "firewall",
        ),
        (
            |f| f.ports = known_ports(99, 99, &["50801 is taken by nginx"]),
            "ports",
            Verdict::Warning,
            "50801 is taken by nginx",
            "verify-ports",
        ),
        (
            |f| {
                if let PortsFacts::Looked(looked) = &mut f.ports {
                    let taken = |port: u16| TakenPort {
                        port,
                        is_api: port == 7466,
                        reason: "another program has it".to_owned(),
                        by: Some("nginx (process 3)".to_owned()),
                    };
                    looked.taken = std::iter::once(7466).chain(50_800..50_808).map(taken).collect();
                    looked.free = 92;
                }
            },
            "api port",
            Verdict::Bad,
            "port 7466 can't be had: nginx (process 3) has it",
            "GOLEM_PROVIDER_PORT",
        ),
        (
            |f| {
                if let PortsFacts::Looked(looked) = &mut f.ports {
                    looked.taken = (50_800..50_808)
                        .map(|port| TakenPort {
                            port,
                            is_api: false,
                            reason: "another program has it".to_owned(),
                            by: None,
                        })
                        .collect();
                    looked.free = 92;
                }
            },
            "ports",
            Verdict::Warning,
            "50804: another program has it; and 3 more",
            "not handed out",
        ),
        (|f| f.checkers.clear(), "port checkers", Verdict::Bad, "none is set", "--no-verify-ports"),
        (
            |f| f.checkers[0].answer = Err("can't reach it".to_owned()),
            "port checkers",
            Verdict::Bad,
            "http://checker:9000: can't reach it",
            "GOLEM_PROVIDER_PORT_CHECKERS",
        ),
        (
            |f| f.discovery.clear(),
            "discovery",
            Verdict::Warning,
            "no discovery server is set",
            "GOLEM_PROVIDER_DISCOVERY_URL",
        ),
        (
            |f| f.discovery[0].answer = Err("can't reach http://discovery:9001".to_owned()),
            "discovery",
            Verdict::Bad,
            "can't reach http://discovery:9001",
            "VMs go on",
        ),
        (
            |f| {
                f.advertised = vec![DiscoveryStatus {
                    url: "http://discovery:9001".to_owned(),
                    published_at: None,
                    sequence: None,
                    problem: Some("no port can be handed out".to_owned()),
                }];
            },
            "discovery",
            Verdict::Warning,
            "no port can be handed out",
            "by itself",
        ),
    ];
    for (change, subject, verdict, found, remedy) in table {
        let mut facts = well();
        change(&mut facts);
        let checks = examine(&facts);
        let hit = checks.iter().any(|check| {
            check.subject == *subject
                && check.verdict == *verdict
                && check.found.contains(found)
                && check.remedy.as_deref().is_some_and(|text| text.contains(remedy))
        });
        assert!(hit, "{subject}: {found} / {remedy} is not among {checks:#?}");
        assert_eq!(super::verdict(&checks), checks.iter().map(|c| c.verdict).max().unwrap());
    }
}

#[test]
fn a_clock_that_one_server_disagrees_with_is_not_blamed() {
    let mut facts = well();
    facts.discovery[0].answer = Ok(Some(4000));
    let checks = examine(&facts);
    let clock = checks.iter().find(|check| check.subject == "clock").unwrap();
    assert_eq!(clock.verdict, Verdict::Good, "{clock:?}");
}

fn config(flags: &[(&str, &str)]) -> Config {
    let flags = flags.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
    let source = SettingsSource { flags, ..SettingsSource::default() };
    Config::from_settings(&Settings::load(&TABLE, source).unwrap()).unwrap()
}

#[tokio::test]
async fn facts_are_gathered_from_a_real_machine() {
    let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", server.local_addr().unwrap());
    let app = Router::new().route(route::HEALTH, get(async || "{\"status\":\"healthy\"}"));
    let serving = tokio::spawn(async move { axum::serve(server, app).await });
    // Bound and never accepting: nobody answers there, and nobody else gets the port.
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = dead.local_addr().unwrap().port();
    let (start, end) = (taken.to_string(), (u32::from(taken) + 1).to_string());
    let config = config(&[
        ("GOLEM_PROVIDER_HOST", "127.0.0.1"),
        ("GOLEM_PROVIDER_PORT", "0"),
        ("GOLEM_PROVIDER_PORT_RANGE_START", &start),
        ("GOLEM_PROVIDER_PORT_RANGE_END", &end),
        ("GOLEM_PROVIDER_DISCOVERY_URL", &url),
        ("GOLEM_PROVIDER_FORWARDER", "/nonexistent/golem-forwarder"),
    ]);
    let root = tempfile::tempdir().unwrap();
    let data_dir = DataDir::open(&root.path().join("d")).unwrap();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let store = ProviderStore::open(&data_dir.state_db(), Arc::clone(&clock)).unwrap();
    let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    let subject = |clock: Arc<dyn Clock>| Subject {
        config: &config,
        data_dir: &data_dir,
        backends: vec![(BackendKind::Memory, Ok(Arc::clone(&backend)))],
        store: Some(store.clone()),
        running: None,
        clock,
    };
    let facts = gather(subject(clock)).await;
    assert_eq!(facts.key.state, Ok(false));
    assert!(
        facts.backends[0].found.is_ok() && facts.host.is_ok() && facts.capacity.offered.is_ok()
    );
    assert_eq!(facts.capacity.reserved, Some(Amount::default()));
    assert_eq!(facts.discovery[0].answer, Ok(Some(0)));
    assert!(facts.forwarder.program.as_ref().unwrap_err().contains("/nonexistent"));
    let PortsFacts::Looked(looked) = &facts.ports else { panic!("{:?}", facts.ports) };
    assert_eq!((looked.free, looked.taken[0].port), (0, taken));
    assert_eq!(verdict(&examine(&facts)), Verdict::Bad);

    // The same with a clock that stands far in the past.
    let facts = gather(subject(Arc::new(ManualClock::at(1_700_000_000)))).await;
    let ahead = facts.discovery[0].answer.clone().unwrap().unwrap();
    assert!(ahead < -1_000_000, "{ahead}");
    store.close().await;
    serving.abort();
}
