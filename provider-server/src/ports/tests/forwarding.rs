use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use golem_vm_protocol::VmId;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::forwarder::wire::Hello;
use crate::forwarder::{self, ClientError, ForwarderClient, Options, STATE_NAME};
use crate::ports::{ForwardedPorts, ForwardingError, LaunchForwarder, Local, PortBoard};
use crate::test_address::own_ip;
use crate::vm::AccessPorts as _;

/// Runs the forwarder as a task instead of a process.
struct InThisProcess {
    data_dir: PathBuf,
    running: tokio::sync::Mutex<Option<(CancellationToken, JoinHandle<()>)>>,
}

impl InThisProcess {
    async fn kill(&self) {
        let (token, task) = self.running.lock().await.take().unwrap();
        token.cancel();
        task.await.unwrap();
    }
}

#[async_trait]
impl LaunchForwarder for InThisProcess {
    fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    async fn ensure(&self) -> Result<Hello, ClientError> {
        let client = ForwarderClient::new(&self.data_dir);
        if let Ok(hello) = client.hello().await {
            return Ok(hello);
        }
        let options = Options {
            reserved_ports: None,
            retry_every: Duration::from_millis(20),
            ..Options::new(&self.data_dir)
        };
        let token = CancellationToken::new();
        let ends = token.clone();
        let task = tokio::spawn(async move { forwarder::run(options, ends).await.unwrap() });
        *self.running.lock().await = Some((token, task));
        loop {
            match client.hello().await {
                Err(ClientError::NotRunning { .. }) => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                other => return other,
            }
        }
    }
}

struct Bench {
    _directory: tempfile::TempDir,
    launch: Arc<InThisProcess>,
    ip: IpAddr,
    first: u16,
    board: PortBoard,
}

impl Bench {
    /// Three free ports in a row, unverified.
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let ip = own_ip();
        let held: Vec<_> =
            std::iter::from_fn(|| std::net::TcpListener::bind((ip, 0)).ok()).take(1).collect();
        let first = held[0].local_addr().unwrap().port().min(65_000);
        let launch = InThisProcess {
            data_dir: directory.path().to_owned(),
            running: tokio::sync::Mutex::default(),
        };
        let config = Config { verify_ports: false, ..range(first, first + 2, "") };
        let board = PortBoard::new(&config, 7466);
        Self { _directory: directory, launch: Arc::new(launch), ip, first, board }
    }

    async fn start(&self, expected: Vec<(u16, VmId)>) -> ForwardedPorts {
        let launch = Arc::clone(&self.launch) as Arc<dyn LaunchForwarder>;
        ForwardedPorts::start(launch, self.ip, self.board.clone(), expected).await.unwrap()
    }

    /// What the VM behind a port says first; nothing when there is none.
    async fn says(&self, port: u16) -> String {
        let mut stream = ssh_client((self.ip, port)).await;
        greeting(&mut stream).await
    }
}

/// An SSH client says first what it is.
async fn ssh_client(address: (IpAddr, u16)) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"SSH-").await.unwrap();
    stream
}

async fn greeting(stream: &mut TcpStream) -> String {
    let mut bytes = [0; 3];
    let read = tokio::time::timeout(PATIENCE, stream.read_exact(&mut bytes)).await.unwrap();
    read.map(|_| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

/// A VM's sshd: says who it is, then repeats what it hears.
async fn sshd(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                stream.write_all(name.as_bytes()).await.unwrap();
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    address
}

#[tokio::test]
async fn a_port_leads_to_its_vm_until_it_is_unrouted() {
    let bench = Bench::new();
    let ports = bench.start(Vec::new()).await;
    assert_eq!(ports.usable(), [bench.first, bench.first + 1, bench.first + 2]);
    let (port, vm) = (bench.first, VmId::random().unwrap());
    assert_eq!(bench.says(port).await, "", "a port that leads nowhere closes");
    ports.route(port, vm, sshd("one").await).await.unwrap();
    assert_eq!(bench.says(port).await, "one");
    ports.route(port, vm, sshd("two").await).await.unwrap();
    assert_eq!(bench.says(port).await, "two");
    assert_eq!(ports.stats().await.unwrap().ports[0].vm, Some(vm.to_string()));
    ports.unroute(port).await.unwrap();
    ports.unroute(port).await.unwrap();
    assert_eq!(bench.says(port).await, "");
    bench.launch.kill().await;
}

#[tokio::test]
async fn a_provider_that_starts_again_cuts_nothing_but_what_leads_to_vms_that_are_gone() {
    let bench = Bench::new();
    let ports = bench.start(Vec::new()).await;
    let (kept, gone) = (VmId::random().unwrap(), VmId::random().unwrap());
    ports.route(bench.first, kept, sshd("one").await).await.unwrap();
    ports.route(bench.first + 1, gone, sshd("two").await).await.unwrap();
    let mut session = ssh_client((bench.ip, bench.first)).await;
    assert_eq!(greeting(&mut session).await, "one");
    session.read_exact(&mut [0; 4]).await.unwrap();
    drop(ports);

    let ports = bench.start(vec![(bench.first, kept)]).await;
    session.write_all(b"abc").await.unwrap();
    assert_eq!(greeting(&mut session).await, "abc", "the session lives");
    assert_eq!(bench.says(bench.first).await, "one", "before its task has said anything");
    assert_eq!(bench.says(bench.first + 1).await, "");
    drop(ports);
    bench.launch.kill().await;
}

#[tokio::test]
async fn how_long_a_port_has_been_quiet_is_told() {
    let bench = Bench::new();
    let ports = bench.start(Vec::new()).await;
    let vm = VmId::random().unwrap();
    assert!(ports.quiet_for().await.unwrap().is_empty(), "no port leads anywhere");
    ports.route(bench.first, vm, sshd("one").await).await.unwrap();
    let quiet = async || {
        let told = ports.quiet_for().await.unwrap();
        assert_eq!(told.keys().collect::<Vec<_>>(), [&bench.first]);
        told[&bench.first]
    };
    let long = Duration::from_millis(300);
    until("the unused route has been quiet for long", async || quiet().await > long).await;

    // A visitor that does not speak SSH is no use, though the VM has spoken to it.
    let mut visitor = TcpStream::connect((bench.ip, bench.first)).await.unwrap();
    assert_eq!(greeting(&mut visitor).await, "one");
    assert!(quiet().await > long);
    let session = tokio::sync::Mutex::new(ssh_client((bench.ip, bench.first)).await);
    assert_eq!(greeting(&mut *session.lock().await).await, "one");
    let used = async || {
        session.lock().await.write_all(b"x").await.unwrap();
        quiet().await < long
    };
    until("its bytes are seen", used).await;
    until("it is quiet, and open", async || quiet().await > long).await;
    until("its bytes are seen again", used).await;

    // It goes on to count while the provider starts anew and says the same again.
    until("it is quiet again", async || quiet().await > long).await;
    let again = bench.start(vec![(bench.first, vm)]).await;
    assert!(again.quiet_for().await.unwrap()[&bench.first] > long);
    bench.launch.kill().await;
    let error = again.quiet_for().await.unwrap_err();
    assert!(error.contains("golem-forwarder"), "{error}");
}

#[tokio::test]
async fn an_earlier_forwarder_that_does_not_tell_is_no_quiet_one() {
    let directory = tempfile::tempdir().unwrap();
    let listener = tokio::net::UnixListener::bind(directory.path().join("forwarder.sock")).unwrap();
    tokio::spawn(async move {
        use tokio::io::{AsyncBufReadExt as _, BufReader};
        // What the release before this one answers.
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                let mut line = String::new();
                while stream.read_line(&mut line).await.is_ok_and(|read| read > 0) {
                    let request: serde_json::Value = serde_json::from_str(&line).unwrap();
                    let mut reply = match request["op"].as_str().unwrap() {
                        "hello" => serde_json::json!({
                            "reply": "hello", "protocol_version": 1, "version": "0.1.0", "pid": 77,
                            "started_unix_ms": 1, "start_ticks": 1, "uptime_ms": 1, "proofs": true
                        }),
                        "stats" => serde_json::json!({
                            "reply": "stats", "open": 1, "limit": 9, "limit_per_port": 9,
                            "ports": [{
                                "port": 50800, "vm": "vm_x", "open": 1, "turned_away": 0, "sessions": 1,
                                "unreachable": 0, "bytes_in": 1, "bytes_out": 1, "last_activity_unix_ms": 1
                            }]
                        }),
                        _ => serde_json::json!({"reply": "ports", "ports": []}),
                    };
                    reply["v"] = 1.into();
                    reply["id"] = request["id"].clone();
                    let reply = format!("{reply}\n");
                    stream.get_mut().write_all(reply.as_bytes()).await.unwrap();
                    line.clear();
                }
            });
        }
    });
    let launch = InThisProcess {
        data_dir: directory.path().to_owned(),
        running: tokio::sync::Mutex::default(),
    };
    let board = PortBoard::new(&Config { verify_ports: false, ..range(50_800, 50_801, "") }, 7466);
    let ports = ForwardedPorts::start(Arc::new(launch), own_ip(), board, Vec::new()).await.unwrap();
    let error = ports.quiet_for().await.unwrap_err();
    assert!(error.contains("earlier version"), "{error}");
}

#[tokio::test]
async fn a_forwarder_that_died_comes_back_and_is_told_everything() {
    let bench = Bench::new();
    let ports = bench.start(Vec::new()).await;
    let (first, second) = (VmId::random().unwrap(), VmId::random().unwrap());
    ports.route(bench.first, first, sshd("one").await).await.unwrap();
    bench.launch.kill().await;
    // What it kept for itself is lost as well.
    std::fs::remove_file(bench.launch.data_dir.join(STATE_NAME)).unwrap();
    let refused = ports.route(bench.first + 1, second, sshd("two").await).await.unwrap_err();
    assert!(refused.contains("golem-forwarder"), "{refused}");

    let shutdown = CancellationToken::new();
    let watching = tokio::spawn({
        let (ports, shutdown) = (ports.clone(), shutdown.clone());
        async move { ports.watch(shutdown).await }
    });
    until("it is back", async || ports.stats().await.is_ok_and(|s| s.ports.len() == 2)).await;
    assert_eq!(bench.says(bench.first).await, "one");
    assert_eq!(bench.says(bench.first + 1).await, "two");
    bench.launch.kill().await;
    until("it is back again", async || ports.stats().await.is_ok_and(|s| s.ports.len() == 2)).await;
    assert_eq!(bench.says(bench.first).await, "one");
    shutdown.cancel();
    watching.await.unwrap();
    bench.launch.kill().await;
}

#[tokio::test]
async fn a_port_of_another_program_is_not_usable_until_it_is_free() {
    let bench = Bench::new();
    let other = std::net::TcpListener::bind((bench.ip, bench.first + 1)).unwrap();
    let ports = bench.start(Vec::new()).await;
    assert_eq!(ports.usable(), [bench.first, bench.first + 2]);
    let own = format!("(process {})", std::process::id());
    until("it is known who has it", async || {
        matches!(&bench.board.report().access[1].local, Local::Taken { by: Some(by) } if by.ends_with(&own))
    })
    .await;
    let problem = bench.board.report().problems().remove(0);
    assert!(
        problem.found.starts_with(&format!("port {} taken by another program, ", bench.first + 1)),
        "{problem:?}"
    );

    drop(other);
    let client = ForwarderClient::new(&bench.launch.data_dir);
    until("the forwarder has it", async || {
        client.ports().await.unwrap().iter().all(|status| status.bound)
    })
    .await;
    let ports = bench.start(Vec::new()).await;
    assert_eq!(ports.usable().len(), 3);
    drop(ports);
    bench.launch.kill().await;
}

#[tokio::test]
async fn a_vm_keeps_a_port_that_is_no_longer_offered() {
    let bench = Bench::new();
    let far = bench.first + 3;
    let vm = VmId::random().unwrap();
    let ports = bench.start(vec![(far, vm)]).await;
    assert!(!ports.usable().contains(&far));
    assert_eq!(bench.says(far).await, "", "held although nothing is behind it yet");
    ports.route(far, vm, sshd("far").await).await.unwrap();
    assert_eq!(bench.says(far).await, "far");
    bench.launch.kill().await;
}

#[tokio::test]
async fn a_range_that_is_too_large_is_refused() {
    let bench = Bench::new();
    let board = PortBoard::new(&range(1024, 20_000, ""), 7466);
    let launch = Arc::clone(&bench.launch) as Arc<dyn LaunchForwarder>;
    let refused = ForwardedPorts::start(launch, bench.ip, board, Vec::new()).await;
    assert!(matches!(refused, Err(ForwardingError::TooManyPorts(18_976))), "{refused:?}");
}
