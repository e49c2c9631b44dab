//! Port checkers, and everybody else who is no SSH client.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use golem_vm_protocol::KeyPair;
use golem_vm_protocol::port_proof::{Challenge, MAX_LINE, Proof, ProofScan};
use golem_vm_protocol::signature::Nonce;
use tokio::time::Instant;

use super::super::opening::Patience;
use super::super::waiting::PER_PORT;
use super::*;
use crate::ports::{PortProofs, bind_proof_socket};

fn provider() -> KeyPair {
    KeyPair::from_secret_bytes([1; 32]).unwrap()
}

/// The provider's side, until the guard is dropped.
fn provider_answers(data_dir: &Path) -> tokio_util::sync::DropGuard {
    let (socket, listener) = bind_proof_socket(data_dir).unwrap();
    let shutdown = CancellationToken::new();
    let serving = PortProofs::new(provider()).serve(listener, shutdown.clone());
    tokio::spawn(async move {
        serving.await;
        drop(socket);
    });
    shutdown.drop_guard()
}

/// A checker that dials `dialled` and says that it dialled `claimed`.
async fn ask(dialled: SocketAddr, claimed: SocketAddr) -> Option<(Challenge, Proof)> {
    let checker = KeyPair::from_secret_bytes([2; 32]).unwrap().id();
    let challenge = Challenge::new(Nonce::random().unwrap(), checker, claimed);
    let mut stream = TcpStream::connect(dialled).await.unwrap();
    stream.write_all(format!("{challenge}\n").as_bytes()).await.unwrap();
    let mut received = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut received)).await.unwrap();
    // A connection that is reset has said what it had to say.
    let _ = read;
    let mut scan = ProofScan::default();
    scan.push(&received);
    scan.next().map(|proof| (challenge, proof))
}

fn is_good(found: Option<(Challenge, Proof)>, dialled: SocketAddr) -> bool {
    found.is_some_and(|(challenge, proof)| {
        proof.verify(&challenge, dialled, provider().id()).is_ok()
    })
}

#[tokio::test]
async fn every_port_proves_whose_it_is() {
    let forwarder = Forwarder::start().await;
    let _provider = provider_answers(forwarder.directory.path());
    let [free, in_use, down] = forwarder.offer().await;
    forwarder.route(in_use, named_server("SSH-2.0-vm").await, "box").await;
    let [nobody] = free_ports(forwarder.ip);
    forwarder.route(down, (forwarder.ip, nobody).into(), "other box").await;
    for port in [free, in_use, down] {
        let here = SocketAddr::new(forwarder.ip, port);
        assert!(is_good(ask(here, here).await, here), "port {port}");
        // Behind a router the world dials another address, and the same port.
        let outside = SocketAddr::new("192.0.2.1".parse().unwrap(), port);
        assert!(is_good(ask(here, outside).await, outside), "port {port}");
        let other_port = SocketAddr::new(outside.ip(), 22);
        assert!(ask(here, other_port).await.is_none(), "port {port}");
    }
    // An SSH client is served as ever.
    assert_eq!(line(&mut BufReader::new(forwarder.connect(in_use).await)).await, "SSH-2.0-vm");
    forwarder.stop().await;
}

#[tokio::test]
async fn without_its_provider_a_port_proves_nothing_and_sessions_go_on() {
    let forwarder = Forwarder::start().await;
    let [free, in_use] = forwarder.offer().await;
    forwarder.route(in_use, named_server("vm").await, "box").await;
    let mut session = BufReader::new(forwarder.connect(in_use).await);
    assert_eq!(line(&mut session).await, "vm");
    for port in [free, in_use] {
        let here = SocketAddr::new(forwarder.ip, port);
        assert!(ask(here, here).await.is_none());
    }
    assert!(echoes(&mut session, "alive").await);
    let _provider = provider_answers(forwarder.directory.path());
    let here = SocketAddr::new(forwarder.ip, free);
    assert!(is_good(ask(here, here).await, here));
    forwarder.stop().await;
}

/// A VM's server that says its name and counts the bytes that it gets.
async fn counting_server() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let bytes = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&bytes);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let count = Arc::clone(&count);
            tokio::spawn(async move {
                stream.write_all(b"SSH-2.0-vm\r\n").await.unwrap();
                let mut piece = [0; 1024];
                while let Ok(read @ 1..) = stream.read(&mut piece).await {
                    count.fetch_add(read, Ordering::SeqCst);
                }
            });
        }
    });
    (address, bytes)
}

#[tokio::test]
async fn only_ssh_reaches_the_vm_and_its_server_speaks_at_once() {
    let forwarder = Forwarder::start().await;
    let _provider = provider_answers(forwarder.directory.path());
    let [port] = forwarder.offer().await;
    let (server, bytes) = counting_server().await;
    forwarder.route(port, server, "box").await;
    let here = SocketAddr::new(forwarder.ip, port);
    // The banner does not wait for the client's first byte.
    let mut silent = BufReader::new(TcpStream::connect(here).await.unwrap());
    assert_eq!(line(&mut silent).await, "SSH-2.0-vm");
    // In single bytes, as slow as they come.
    for byte in b"SSH-" {
        silent.get_mut().write_all(&[*byte]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    until("the VM has them", async || bytes.load(Ordering::SeqCst) == 4).await;
    for other in [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        b"ssh-2.0-x\r\n".to_vec(),
        b"GOLEM-PORT-PROOF/1 nonsense\n".to_vec(),
        [b"GOLE".to_vec(), vec![b'x'; 2 * MAX_LINE]].concat(),
        vec![0; 5],
    ] {
        let mut stream = BufReader::new(TcpStream::connect(here).await.unwrap());
        assert_eq!(line(&mut stream).await, "SSH-2.0-vm");
        let _ = stream.get_mut().write_all(&other).await;
        assert!(is_closed(&mut stream).await, "{other:?}");
    }
    assert!(is_good(ask(here, here).await, here));
    assert_eq!(bytes.load(Ordering::SeqCst), 4, "something else reached the VM");
    forwarder.stop().await;
}

#[tokio::test]
async fn a_crowd_of_silent_clients_keeps_nobody_out() {
    // Nobody is closed for being slow: only for making room.
    let patience = Patience { in_use: 10 * PATIENCE, free: PATIENCE, ..Patience::default() };
    let forwarder = Forwarder::start_with(|options| options.patience = patience).await;
    let [port] = forwarder.offer().await;
    forwarder.route(port, counting_server().await.0, "box").await;
    let here = SocketAddr::new(forwarder.ip, port);
    let mut crowd = Vec::new();
    for _ in 0..2 * PER_PORT {
        crowd.push(TcpStream::connect(here).await.unwrap());
    }
    let mut honest = BufReader::new(forwarder.connect(port).await);
    assert_eq!(line(&mut honest).await, "SSH-2.0-vm");
    until("the first of the crowd were closed", async || {
        forwarder.client.stats().await.unwrap().open <= PER_PORT as u64 + 1
    })
    .await;
    for silent in crowd.iter_mut().take(PER_PORT) {
        let mut all = Vec::new();
        let _ = tokio::time::timeout(PATIENCE, silent.read_to_end(&mut all)).await.unwrap();
    }
    forwarder.stop().await;
}

#[tokio::test]
async fn who_says_nothing_or_half_of_it_is_closed_in_time() {
    let patience = Patience {
        in_use: Duration::from_millis(200),
        free: Duration::from_millis(100),
        ..Patience::default()
    };
    let forwarder = Forwarder::start_with(|options| options.patience = patience).await;
    let [free, in_use] = forwarder.offer().await;
    forwarder.route(in_use, counting_server().await.0, "box").await;
    for (port, least) in [(free, patience.free), (in_use, patience.in_use)] {
        for said in ["", "SSH", "GOLEM-PORT-PROOF/1 "] {
            let began = Instant::now();
            let mut slow = TcpStream::connect((forwarder.ip, port)).await.unwrap();
            slow.write_all(said.as_bytes()).await.unwrap();
            let mut all = Vec::new();
            let read = tokio::time::timeout(PATIENCE, slow.read_to_end(&mut all)).await;
            assert!(read.is_ok() && began.elapsed() >= least, "{port} {said}");
        }
    }
    // Once it has said so, an SSH client may be as silent as it likes.
    let mut session = BufReader::new(forwarder.connect(in_use).await);
    assert_eq!(line(&mut session).await, "SSH-2.0-vm");
    tokio::time::sleep(patience.in_use * 2).await;
    until("the others are gone", async || forwarder.client.stats().await.unwrap().open == 1).await;
    forwarder.stop().await;
}

#[tokio::test]
async fn a_place_is_free_only_when_the_vm_has_seen_its_client_leave() {
    let forwarder = Forwarder::start_with(|options| options.max_newcomers_per_port = 1).await;
    let [port] = forwarder.offer().await;
    let server = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    forwarder.route(port, server.local_addr().unwrap(), "box").await;

    let mut stranger = TcpStream::connect((forwarder.ip, port)).await.unwrap();
    let (mut seen_by_vm, _) = server.accept().await.unwrap();
    seen_by_vm.write_all(b"hello").await.unwrap();
    let mut hello = [0; 5];
    stranger.read_exact(&mut hello).await.unwrap();
    stranger.write_all(b"GET ").await.unwrap();
    assert!(is_closed(&mut stranger).await, "the client is not kept waiting");

    let mut next = forwarder.connect(port).await;
    assert!(is_closed(&mut next).await, "the VM would have counted both");
    let mut end = Vec::new();
    seen_by_vm.read_to_end(&mut end).await.unwrap();
    assert!(end.is_empty(), "the VM is told that its client has left, and nothing else");
    drop(seen_by_vm);
    until("there is room", async || forwarder.client.stats().await.unwrap().open == 0).await;
    let _next = forwarder.connect(port).await;
    server.accept().await.unwrap();
    forwarder.stop().await;
}
