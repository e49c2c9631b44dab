//! What the provider makes of the forwarder that it finds.

use std::collections::BTreeMap;
use std::sync::Arc;

use golem_vm_node::settings::{Settings, SettingsSource};
use golem_vm_protocol::VmId;
use golem_vm_provider::config::{Config, TABLE};
use golem_vm_provider::ports::{ForwardedPorts, ForwarderProgram, PortBoard};
use golem_vm_provider::vm::AccessPorts as _;
use tokio_util::sync::CancellationToken;

use super::upgrade::install;
use super::*;

pub(super) fn board(port: u16) -> PortBoard {
    let settings = [
        ("GOLEM_PROVIDER_PORT_RANGE_START", port.to_string()),
        ("GOLEM_PROVIDER_PORT_RANGE_END", (u32::from(port) + 1).to_string()),
        ("GOLEM_PROVIDER_VERIFY_PORTS", "false".to_owned()),
    ];
    let environment: BTreeMap<String, String> =
        settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let source = SettingsSource {
        environment: environment.into_iter().collect(),
        ..SettingsSource::default()
    };
    let config = Config::from_settings(&Settings::load(&TABLE, source).unwrap()).unwrap();
    PortBoard::new(&config, 7466)
}

async fn provider(home: &Home, binary: &Path, ip: IpAddr, port: u16, vm: VmId) -> ForwardedPorts {
    let program = ForwarderProgram {
        data_dir: home.path().to_owned(),
        binary: binary.to_owned(),
        log: home.log(),
    };
    ForwardedPorts::start(Arc::new(program), ip, board(port), vec![(port, vm)]).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_that_starts_upgrades_the_forwarder_that_it_finds() {
    let home = Home::new();
    let (ip, id) = (own_ip(), VmId::random().unwrap());
    let port = free_port(ip);
    let (client, first) = home.ensure_running().await;
    let before = provider(&home, Path::new(BINARY), ip, port, id).await;
    before.route(port, id, vm()).await.unwrap();
    let mut session = Session::open(ip, port);
    assert_eq!(client.hello().await.unwrap().started_unix_ms, first.started_unix_ms);

    // One that watches meanwhile takes note, and nothing else.
    let shutdown = CancellationToken::new();
    let watching = tokio::spawn({
        let (before, shutdown) = (before.clone(), shutdown.clone());
        async move { before.watch(shutdown).await }
    });
    let newer = install(Path::new(BINARY), home.path().join("golem-forwarder"));
    let after = provider(&home, &newer, ip, port, id).await;
    let now = client.hello().await.unwrap();
    assert_eq!((now.pid, now.program.as_deref()), (first.pid, Some(newer.as_path())));
    assert!(session.works());
    assert!(after.quiet_for().await.unwrap().contains_key(&port));
    assert_eq!(before.stats().await.unwrap().open, 1);

    // Under a systemd unit the provider has no program for it.
    fs::remove_file(&newer).unwrap();
    install(Path::new(BINARY), newer.clone());
    drop(provider(&home, Path::new("/bin/false"), ip, port, id).await);
    assert_ne!(client.hello().await.unwrap().build, now.build);
    assert!(session.works());
    after.unroute(port).await.unwrap();
    assert!(session.line().is_ok_and(|line| line.is_empty()), "unrouted is cut");
    shutdown.cancel();
    watching.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_mends_a_killed_forwarder_at_once() {
    let home = Home::new();
    let (ip, id) = (own_ip(), VmId::random().unwrap());
    let port = free_port(ip);
    let ports = provider(&home, Path::new(BINARY), ip, port, id).await;
    ports.route(port, id, vm()).await.unwrap();
    let shutdown = CancellationToken::new();
    let watching = tokio::spawn({
        let (ports, shutdown) = (ports.clone(), shutdown.clone());
        async move { ports.watch(shutdown).await }
    });
    let mut session = Session::open(ip, port);
    kill_process(home.pid().unwrap(), Signal::KILL).unwrap();
    let killed = Instant::now();
    assert!(session.line().map_or(true, |line| line.is_empty()), "it died with the forwarder");
    let mended = tokio::task::spawn_blocking(move || {
        // What is being killed may accept a last one.
        loop {
            match Session::try_open(ip, port) {
                Ok(session) => return (session, killed.elapsed()),
                Err(_) => assert!(killed.elapsed() < PATIENCE),
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    let (mut session, after) = mended.await.unwrap();
    println!("sessions can be opened again after {after:?}");
    assert!(session.works());
    shutdown.cancel();
    watching.await.unwrap();
    // In an orderly way, so that it takes its port out of the kernel's list of reserved ones.
    ports.shut_down().await.unwrap();
}
