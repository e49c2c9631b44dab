//! The forwarder as a whole, inside the test's process.
#![allow(clippy::unwrap_used)]

#[cfg(target_os = "linux")]
mod gone;
mod many;
mod proofs;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::wire::{BindFailureReason, MAX_LINE, RefusalCode, Route};
use super::{ClientError, ForwarderClient, Options, SOCKET_NAME, ServerError, run};
use crate::test_address::own_ip;

/// No test takes nearly as long; a hanging one fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// Ports that are free on an address.
fn free_ports<const N: usize>(ip: IpAddr) -> [u16; N] {
    let held: Vec<_> = (0..N).map(|_| std::net::TcpListener::bind((ip, 0)).unwrap()).collect();
    std::array::from_fn(|i| held[i].local_addr().unwrap().port())
}

struct Forwarder {
    directory: tempfile::TempDir,
    ip: IpAddr,
    client: ForwarderClient,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), ServerError>>,
}

fn options(data_dir: &Path) -> Options {
    Options {
        reserved_ports: None,
        retry_every: Duration::from_millis(20),
        ..Options::new(data_dir)
    }
}

impl Forwarder {
    async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    async fn start_with(change: impl FnOnce(&mut Options)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut options = options(directory.path());
        change(&mut options);
        let (shutdown, task, client) = launch(options).await;
        Self { directory, ip: own_ip(), client, shutdown, task }
    }

    async fn offer<const N: usize>(&self) -> [u16; N] {
        let ports = free_ports(self.ip);
        let statuses = self.client.offer(self.ip, ports).await.unwrap();
        assert_eq!(statuses.len(), N);
        assert!(statuses.iter().all(|status| status.bound), "{statuses:?}");
        ports
    }

    async fn connect(&self, port: u16) -> TcpStream {
        ssh_client((self.ip, port).into()).await
    }

    async fn route(&self, port: u16, target: SocketAddr, vm: &str) {
        let route = Route { port, target, vm: vm.to_owned() };
        assert!(self.client.set_route(route).await.unwrap().bound);
    }

    async fn stop(self) -> tempfile::TempDir {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
        self.directory
    }
}

/// An SSH client says first what it is.
async fn ssh_client(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"SSH-2.0-test\r\n").await.unwrap();
    stream
}

async fn launch(
    options: Options,
) -> (CancellationToken, JoinHandle<Result<(), ServerError>>, ForwarderClient) {
    let shutdown = CancellationToken::new();
    let data_dir = options.data_dir.clone();
    let task = tokio::spawn(run(options, shutdown.clone()));
    let client = ForwarderClient::new(&data_dir);
    until("it answers", async || client.hello().await.is_ok()).await;
    (shutdown, task, client)
}

async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let wait = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "waiting until {what}");
}

/// A server that says its name, takes its client's, and then repeats every line.
async fn named_server(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                stream.get_mut().write_all(format!("{name}\n").as_bytes()).await.unwrap();
                let mut line = Vec::new();
                stream.read_until(b'\n', &mut line).await.unwrap();
                line.clear();
                while stream.read_until(b'\n', &mut line).await.is_ok_and(|read| read > 0) {
                    if stream.get_mut().write_all(&line).await.is_err() {
                        return;
                    }
                    line.clear();
                }
            });
        }
    });
    address
}

async fn line(stream: &mut BufReader<TcpStream>) -> String {
    let mut line = String::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_line(&mut line)).await;
    read.unwrap().unwrap();
    line.trim_end().to_owned()
}

async fn echoes(stream: &mut BufReader<TcpStream>, text: &str) -> bool {
    let sent = stream.get_mut().write_all(format!("{text}\n").as_bytes()).await;
    sent.is_ok() && line(stream).await == text
}

/// Whether the other side has ended the connection, in whatever way.
async fn is_closed(stream: &mut (impl AsyncReadExt + Unpin)) -> bool {
    let mut byte = [0];
    match tokio::time::timeout(PATIENCE, stream.read(&mut byte)).await {
        Ok(Ok(read)) => read == 0,
        Ok(Err(_)) => true,
        Err(_) => false,
    }
}

fn noise(length: usize, seed: u32) -> Vec<u8> {
    let mut state = seed;
    (0..length)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_byte_arrives_and_each_half_closes_by_itself() {
    let forwarder = Forwarder::start().await;
    let [port] = forwarder.offer().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    forwarder.route(port, listener.local_addr().unwrap(), "box").await;

    let question = [b"SSH-".to_vec(), noise(5_000_003, 1)].concat();
    let answer = noise(7_000_001, 2);
    for client_first in [true, false] {
        let mut client = TcpStream::connect((forwarder.ip, port)).await.unwrap();
        let (mut vm, _) = listener.accept().await.unwrap();
        let mut said = 0;
        if !client_first {
            // It has to say that it speaks SSH before anything ends.
            client.write_all(&question[..4]).await.unwrap();
            said = 4;
        }
        let (first, second, one, other) = if client_first {
            (&mut client, &mut vm, &question[..], &answer[..])
        } else {
            (&mut vm, &mut client, &answer[..], &question[said..])
        };
        let exchange = async {
            let ask = async {
                first.write_all(one).await.unwrap();
                first.shutdown().await.unwrap();
                let mut received = Vec::new();
                first.read_to_end(&mut received).await.unwrap();
                received
            };
            let respond = async {
                let mut received = Vec::new();
                second.read_to_end(&mut received).await.unwrap();
                // The other half is closed by now, and this one still works.
                second.write_all(other).await.unwrap();
                second.shutdown().await.unwrap();
                received
            };
            tokio::join!(ask, respond)
        };
        let (got_by_first, got_by_second) = tokio::time::timeout(PATIENCE, exchange).await.unwrap();
        assert!(got_by_second == *one);
        assert!(got_by_first == *if client_first { &answer } else { &question });
        until("the session has ended", async || forwarder.client.stats().await.unwrap().open == 0)
            .await;
    }

    let stats = forwarder.client.stats().await.unwrap();
    let [port_stats] = stats.ports.as_slice() else { panic!("{stats:?}") };
    assert_eq!(port_stats.vm.as_deref(), Some("box"));
    assert_eq!(port_stats.sessions, 2);
    assert_eq!(port_stats.bytes_in, 2 * question.len() as u64);
    assert_eq!(port_stats.bytes_out, 2 * answer.len() as u64);
    assert!(port_stats.last_activity_unix_ms.is_some());
    forwarder.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_directions_stream_at_once_in_many_sessions() {
    let forwarder = Forwarder::start().await;
    let [port] = forwarder.offer().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    forwarder.route(port, listener.local_addr().unwrap(), "box").await;
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await.unwrap();
                write.shutdown().await.unwrap();
            });
        }
    });
    let sessions = (0..20).map(|i| {
        let ip = forwarder.ip;
        tokio::spawn(async move {
            let sent = [b"SSH-".to_vec(), noise(1_000_003 + i, i as u32)].concat();
            let mut stream = TcpStream::connect((ip, port)).await.unwrap();
            let (mut read, mut write) = stream.split();
            let mut received = Vec::new();
            let send = async {
                write.write_all(&sent).await.unwrap();
                write.shutdown().await.unwrap();
            };
            let (_, received_bytes) = tokio::join!(send, read.read_to_end(&mut received));
            received_bytes.unwrap();
            received == sent
        })
    });
    for session in sessions.collect::<Vec<_>>() {
        assert!(tokio::time::timeout(PATIENCE, session).await.unwrap().unwrap());
    }
    forwarder.stop().await;
}

#[tokio::test]
async fn a_port_that_leads_nowhere_accepts_and_closes() {
    let forwarder = Forwarder::start().await;
    let [port] = forwarder.offer().await;
    assert!(is_closed(&mut forwarder.connect(port).await).await);
    assert!(forwarder.client.stats().await.unwrap().ports.is_empty());
    forwarder.stop().await;
}

#[tokio::test]
async fn a_vm_that_does_not_listen_closes_the_client() {
    let forwarder = Forwarder::start().await;
    let [port] = forwarder.offer().await;
    let [nobody] = free_ports(forwarder.ip);
    forwarder.route(port, (forwarder.ip, nobody).into(), "box").await;
    assert!(is_closed(&mut forwarder.connect(port).await).await);
    until("it is counted", async || {
        let stats = forwarder.client.stats().await.unwrap();
        stats.open == 0 && stats.ports[0].unreachable == 1
    })
    .await;
    forwarder.stop().await;
}

#[tokio::test]
async fn a_new_target_is_for_new_sessions() {
    let forwarder = Forwarder::start().await;
    let [port] = forwarder.offer().await;
    forwarder.route(port, named_server("old").await, "box").await;
    let mut old = BufReader::new(forwarder.connect(port).await);
    assert_eq!(line(&mut old).await, "old");

    forwarder.route(port, named_server("new").await, "box").await;
    let mut new = BufReader::new(forwarder.connect(port).await);
    assert_eq!(line(&mut new).await, "new");
    assert!(echoes(&mut old, "still here").await);
    let stats = forwarder.client.stats().await.unwrap();
    assert_eq!((stats.ports[0].sessions, stats.ports[0].open), (2, 2));

    // Another VM starts with counters of its own.
    forwarder.route(port, named_server("other").await, "other box").await;
    assert_eq!(forwarder.client.stats().await.unwrap().ports[0].sessions, 0);
    assert!(echoes(&mut old, "and still").await);
    forwarder.stop().await;
}

#[tokio::test]
async fn clearing_a_route_cuts_what_it_is_told_to_and_nothing_else() {
    let forwarder = Forwarder::start().await;
    let [one, two] = forwarder.offer().await;
    let server = named_server("vm").await;
    let route = |port| Route { port, target: server, vm: format!("vm {port}") };
    forwarder.client.set_routes(vec![route(one), route(two)], false).await.unwrap();
    let mut first = BufReader::new(forwarder.connect(one).await);
    let mut second = BufReader::new(forwarder.connect(two).await);
    assert_eq!((line(&mut first).await, line(&mut second).await), ("vm".into(), "vm".into()));

    // Without the order to cut, a session outlives its route, and even its port.
    let status = forwarder.client.clear_route(one, false).await.unwrap().unwrap();
    assert!(status.bound && status.route.is_none());
    assert!(is_closed(&mut forwarder.connect(one).await).await);
    forwarder.client.offer(forwarder.ip, [two]).await.unwrap();
    assert!(echoes(&mut first, "alive").await);

    // It can be cut later.
    assert_eq!(forwarder.client.clear_route(one, true).await.unwrap(), None);
    assert!(is_closed(&mut first).await);
    assert!(echoes(&mut second, "alive").await);

    // Replacing the table cuts nothing unless told to.
    forwarder.client.set_routes(vec![], false).await.unwrap();
    assert!(echoes(&mut second, "alive").await);
    forwarder.client.set_routes(vec![route(two)], false).await.unwrap();
    forwarder.client.set_routes(vec![route(two)], true).await.unwrap();
    assert!(echoes(&mut second, "alive").await);
    forwarder.client.set_routes(vec![], true).await.unwrap();
    assert!(is_closed(&mut second).await);
    // A route that is not there can be cleared.
    assert!(forwarder.client.clear_route(two, true).await.unwrap().unwrap().bound);
    forwarder.stop().await;
}

#[tokio::test]
async fn a_port_in_use_is_reported_and_bound_once_it_is_free() {
    let forwarder = Forwarder::start().await;
    let taken = std::net::TcpListener::bind((forwarder.ip, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let statuses = forwarder.client.offer(forwarder.ip, [port]).await.unwrap();
    assert!(!statuses[0].bound);
    assert_eq!(statuses[0].failure.as_ref().unwrap().reason, BindFailureReason::InUse);
    // A route for it waits with it.
    let target = named_server("vm").await;
    let route = Route { port, target, vm: "box".to_owned() };
    assert!(!forwarder.client.set_route(route).await.unwrap().bound);

    drop(taken);
    until("it is bound", async || forwarder.client.ports().await.unwrap()[0].bound).await;
    assert_eq!(line(&mut BufReader::new(forwarder.connect(port).await)).await, "vm");
    forwarder.stop().await;
}

#[tokio::test]
async fn an_address_that_is_not_here_is_reported() {
    let forwarder = Forwarder::start().await;
    // A documentation address (RFC 5737).
    let elsewhere = "192.0.2.1".parse().unwrap();
    let [port] = free_ports(forwarder.ip);
    let statuses = forwarder.client.offer(elsewhere, [port]).await.unwrap();
    assert_eq!(statuses[0].failure.as_ref().unwrap().reason, BindFailureReason::Address);
    // And changed for a better one.
    assert!(forwarder.client.offer(forwarder.ip, [port]).await.unwrap()[0].bound);
    forwarder.stop().await;
}

#[tokio::test]
async fn ports_that_are_not_offered_any_more_are_free_unless_a_vm_has_them() {
    let forwarder = Forwarder::start().await;
    let [released, used] = forwarder.offer().await;
    forwarder.route(used, named_server("vm").await, "box").await;
    let statuses = forwarder.client.offer(forwarder.ip, []).await.unwrap();
    assert_eq!(statuses.len(), 1);
    assert_eq!((statuses[0].port, statuses[0].bound, statuses[0].offered), (used, true, false));
    std::net::TcpListener::bind((forwarder.ip, released)).unwrap();
    assert!(std::net::TcpListener::bind((forwarder.ip, used)).is_err());

    assert_eq!(forwarder.client.clear_route(used, false).await.unwrap(), None);
    std::net::TcpListener::bind((forwarder.ip, used)).unwrap();
    forwarder.stop().await;
}

#[tokio::test]
async fn a_full_port_turns_away_and_recovers() {
    let forwarder = Forwarder::start_with(|options| {
        options.max_sessions_per_port = 2;
        options.max_sessions = 3;
    })
    .await;
    let [one, two] = forwarder.offer().await;
    let server = named_server("vm").await;
    forwarder.route(one, server, "box").await;
    forwarder.route(two, server, "other box").await;
    let open = async |port| {
        let mut stream = BufReader::new(forwarder.connect(port).await);
        let mut text = String::new();
        let read = tokio::time::timeout(PATIENCE, stream.read_line(&mut text)).await.unwrap();
        read.is_ok_and(|read| read > 0).then_some(stream)
    };
    let first = open(one).await.unwrap();
    let _second = open(one).await.unwrap();
    assert!(open(one).await.is_none(), "the port is full");
    let _third = open(two).await.unwrap();
    assert!(open(two).await.is_none(), "the forwarder is full");
    let stats = forwarder.client.stats().await.unwrap();
    assert_eq!((stats.open, stats.limit, stats.limit_per_port), (3, 3, 2));
    assert_eq!(stats.ports.iter().map(|port| port.turned_away).collect::<Vec<_>>(), [1, 1]);

    drop(first);
    until("there is room", async || forwarder.client.stats().await.unwrap().open == 2).await;
    assert!(open(one).await.is_some());
    forwarder.stop().await;
}

#[tokio::test]
async fn a_restarted_forwarder_knows_its_ports_and_routes() {
    let forwarder = Forwarder::start().await;
    let ip = forwarder.ip;
    let [port, other] = forwarder.offer().await;
    forwarder.route(port, named_server("vm").await, "box").await;
    let mut session = BufReader::new(forwarder.connect(port).await);
    assert_eq!(line(&mut session).await, "vm");
    let directory = forwarder.stop().await;
    assert!(is_closed(&mut session).await, "an orderly end cuts the sessions");
    assert!(!directory.path().join(SOCKET_NAME).exists());

    let (shutdown, task, client) = launch(options(directory.path())).await;
    let statuses = client.ports().await.unwrap();
    assert!(statuses.iter().all(|status| status.bound && status.offered), "{statuses:?}");
    let ports: BTreeSet<_> = statuses.iter().map(|status| status.port).collect();
    assert_eq!(ports, BTreeSet::from([port, other]));
    let mut session = BufReader::new(ssh_client((ip, port).into()).await);
    assert_eq!(line(&mut session).await, "vm");
    shutdown.cancel();
    task.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_second_forwarder_is_refused_and_does_no_harm() {
    let forwarder = Forwarder::start().await;
    let second = run(options(forwarder.directory.path()), CancellationToken::new()).await;
    let error = second.unwrap_err();
    assert!(matches!(error, ServerError::AlreadyRunning { .. }), "{error}");
    let own_pid = std::process::id();
    assert!(error.to_string().contains(&format!("(process {own_pid})")), "{error}");
    assert_eq!(forwarder.client.hello().await.unwrap().pid, own_pid);
    forwarder.stop().await;
}

/// Sends raw bytes and returns all that comes back.
async fn raw(socket: &PathBuf, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut reply = String::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_string(&mut reply)).await;
    read.unwrap().unwrap();
    reply
}

#[tokio::test]
async fn what_is_no_request_is_answered_and_the_connection_closed() {
    let forwarder = Forwarder::start().await;
    let socket = forwarder.directory.path().join(SOCKET_NAME);
    for garbage in [
        "SSH-2.0-client\n",
        "\n",
        "{\"v\":1,\"id\":5}\n",
        "{\"v\":1,\"id\":5,\"op\":\"explode\"}\n",
        "{\"v\":1,\"id\":5,\"op\":\"set_route\",\"route\":{\"port\":70000}}\n",
    ] {
        let reply = raw(&socket, garbage.as_bytes()).await;
        assert!(reply.contains("\"code\":\"bad_request\""), "{garbage} {reply}");
    }
    let reply = raw(&socket, &vec![b'x'; MAX_LINE + 1000]).await;
    assert!(reply.contains("\"code\":\"too_long\""), "{reply}");
    assert_eq!(raw_cut_off(&socket).await, "");

    // A client with a good request is not impressed, and gets precise refusals.
    let zero = Route { port: 0, target: "127.0.0.1:22".parse().unwrap(), vm: "a".to_owned() };
    let refused = forwarder.client.set_route(zero.clone()).await.unwrap_err();
    assert!(
        matches!(&refused, ClientError::Refused(refusal) if refusal.code == RefusalCode::BadRequest),
        "{refused}"
    );
    let early = forwarder.client.set_route(Route { port: 1, ..zero }).await.unwrap_err();
    assert!(
        matches!(&early, ClientError::Refused(refusal) if refusal.code == RefusalCode::NothingOffered),
        "{early}"
    );
    assert!(forwarder.client.ports().await.unwrap().is_empty());
    forwarder.stop().await;
}

async fn raw_cut_off(socket: &PathBuf) -> String {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    stream.write_all(b"{\"v\":1,").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    reply
}

#[tokio::test]
async fn another_version_is_told_apart() {
    let forwarder = Forwarder::start().await;
    let socket = forwarder.directory.path().join(SOCKET_NAME);
    let mut stream = BufReader::new(UnixStream::connect(&socket).await.unwrap());
    for (request, expected) in [
        ("{\"v\":9,\"id\":1,\"op\":\"hello\"}\n", "\"protocol_version\":1"),
        ("{\"v\":9,\"id\":2,\"op\":\"stats\"}\n", "\"code\":\"protocol_version\""),
        ("{\"v\":9,\"id\":3,\"op\":\"novel\"}\n", "\"code\":\"protocol_version\""),
    ] {
        stream.get_mut().write_all(request.as_bytes()).await.unwrap();
        let mut reply = String::new();
        stream.read_line(&mut reply).await.unwrap();
        assert!(reply.contains(expected), "{reply}");
    }
    forwarder.stop().await;
}

#[tokio::test]
async fn a_forwarder_of_another_version_is_a_typed_error() {
    let directory = tempfile::tempdir().unwrap();
    let listener = tokio::net::UnixListener::bind(directory.path().join(SOCKET_NAME)).unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = BufReader::new(stream);
        for reply in [
            "{\"v\":2,\"id\":1,\"reply\":\"error\",\"code\":\"protocol_version\",\"message\":\"no\"}\n",
            "{\"v\":2,\"id\":2,\"reply\":\"hello\",\"protocol_version\":2,\"version\":\"9.9\",\"pid\":77,\
              \"started_unix_ms\":1,\"uptime_ms\":1,\"novel\":true}\n",
        ] {
            stream.read_line(&mut String::new()).await.unwrap();
            stream.get_mut().write_all(reply.as_bytes()).await.unwrap();
        }
        // Held open.
        let _ = stream.read_line(&mut String::new()).await;
    });
    let client = ForwarderClient::new(directory.path());
    let error = client.stats().await.unwrap_err();
    assert!(matches!(&error, ClientError::OtherVersion { theirs: 2, pid: 77, .. }), "{error}");
}

#[tokio::test]
async fn the_socket_is_for_its_owner_only_and_a_stale_one_is_replaced() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let data_dir = directory.path().join("made");
    std::fs::create_dir(&data_dir).unwrap();
    // What a killed predecessor leaves.
    drop(std::os::unix::net::UnixListener::bind(data_dir.join(SOCKET_NAME)).unwrap());
    let error = ForwarderClient::connect(&data_dir).await.unwrap_err();
    assert!(matches!(error, ClientError::NotRunning { .. }), "{error}");

    let (shutdown, task, _client) = launch(options(&data_dir)).await;
    let mode = std::fs::metadata(data_dir.join(SOCKET_NAME)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    shutdown.cancel();
    task.await.unwrap().unwrap();
}

#[tokio::test]
async fn the_client_connects_again_and_the_watch_sees_the_end() {
    let forwarder = Forwarder::start().await;
    let data_dir = forwarder.directory.path().to_owned();
    let (client, _) = ForwarderClient::connect(&data_dir).await.unwrap();
    let watched = tokio::spawn(async move {
        client.watch().await;
        client
    });
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(!watched.is_finished());
    // By the wire, not by the token.
    forwarder.client.shutdown().await.unwrap();
    let client = tokio::time::timeout(PATIENCE, watched).await.unwrap().unwrap();
    assert!(matches!(client.hello().await, Err(ClientError::NotRunning { .. })));
    // With nobody there, it doesn't wait.
    tokio::time::timeout(PATIENCE, client.watch()).await.unwrap();
    forwarder.task.await.unwrap().unwrap();

    let (shutdown, task, _) = launch(options(&data_dir)).await;
    client.hello().await.unwrap();
    shutdown.cancel();
    task.await.unwrap().unwrap();
}

#[tokio::test]
async fn the_reserved_ports_follow_what_is_held() {
    let list = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(list.path(), "7\n").unwrap();
    let path = list.path().to_owned();
    let forwarder = Forwarder::start_with(|options| options.reserved_ports = Some(path)).await;
    let [port] = forwarder.offer().await;
    assert_eq!(std::fs::read_to_string(list.path()).unwrap(), format!("7,{port}\n"));
    forwarder.stop().await;
    assert_eq!(std::fs::read_to_string(list.path()).unwrap(), "7\n");
}

#[tokio::test]
async fn a_table_that_cannot_be_stored_counts_and_is_stored_later() {
    let forwarder = Forwarder::start().await;
    let state = forwarder.directory.path().join(super::STATE_NAME);
    // A directory in its place, which no file can replace.
    std::fs::create_dir(&state).unwrap();
    let [port] = forwarder.offer().await;
    forwarder.route(port, named_server("vm").await, "box").await;
    assert_eq!(line(&mut BufReader::new(forwarder.connect(port).await)).await, "vm");
    std::fs::remove_dir(&state).unwrap();
    until("it is stored", async || {
        std::fs::read_to_string(&state).is_ok_and(|text| text.contains("\"vm\":\"box\""))
    })
    .await;
    forwarder.stop().await;
}
