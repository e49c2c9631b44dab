//! The service over real sockets, and the program itself.
#![allow(clippy::unwrap_used)]

mod attested;
mod plain;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use golem_port_checker::probe::ProbePolicy;
use golem_port_checker::server::Limits;
use golem_port_checker::{Config, Server};
use golem_vm_node::client::{Call, Reply, SignedClient, SignedReply, Target};
use golem_vm_node::clock::{Clock, ManualClock};
use golem_vm_node::http::TrustedProxies;
use golem_vm_protocol::{KeyId, KeyPair};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

struct Checker {
    base: String,
    id: KeyId,
    clock: Arc<ManualClock>,
    _stop: tokio_util::sync::DropGuard,
}

async fn checker(allow_unsigned: bool) -> Checker {
    checker_with(|config, _| config.allow_unsigned = allow_unsigned).await
}

async fn checker_with(change: impl FnOnce(&mut Config, &mut Limits)) -> Checker {
    let mut config = Config {
        host: "127.0.0.1".to_owned(),
        port: 0,
        public_names: Vec::new(),
        data_dir: None,
        allow_unsigned: false,
        // The tests are on loopback.
        allow_private: true,
        attestation_validity: Duration::from_secs(1800),
        trusted_proxies: TrustedProxies::default(),
        checks_per_minute: 0,
        debug: false,
    };
    let quick = ProbePolicy { pause: Duration::from_millis(1), ..ProbePolicy::default() };
    let clock = Arc::new(ManualClock::at(1_800_000_000));
    let mut limits = Limits { policy: quick, ..Limits::default() };
    change(&mut config, &mut limits);
    let key = KeyPair::generate().unwrap();
    let server =
        Server::bind(&config, key, Arc::clone(&clock) as Arc<dyn Clock>, limits).await.unwrap();
    clock.advance(2);
    let (address, id): (SocketAddr, KeyId) = (server.address(), server.id());
    let stop = CancellationToken::new();
    tokio::spawn(server.run(stop.clone()));
    Checker { base: format!("http://{address}"), id, clock, _stop: stop.drop_guard() }
}

impl Checker {
    fn client(&self) -> SignedClient {
        SignedClient::new(KeyPair::generate().unwrap(), Arc::clone(&self.clock) as Arc<dyn Clock>)
            .unwrap()
    }

    async fn signed(&self, path: &str, body: &Value) -> SignedReply {
        self.signed_by(&KeyPair::generate().unwrap(), path, body).await
    }

    async fn signed_by(&self, key: &KeyPair, path: &str, body: &Value) -> SignedReply {
        let client =
            SignedClient::new(key.clone(), Arc::clone(&self.clock) as Arc<dyn Clock>).unwrap();
        let target = Target::service(&self.base).unwrap();
        client.call(&target, &Call::post(path, body).unwrap()).await.unwrap()
    }

    async fn unsigned(&self, path: &str, body: &Value) -> Reply {
        self.client().call_unsigned(&self.base, &Call::post(path, body).unwrap()).await.unwrap()
    }
}

async fn open_port() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

async fn closed_port() -> u16 {
    open_port().await.1
}

#[tokio::test]
async fn health_is_that_of_the_original() {
    let checker = checker(false).await;
    let reply = checker.client().call_unsigned(&checker.base, &Call::get("/health")).await.unwrap();
    assert_eq!(reply.body, r#"{"status":"ok"}"#);
}

/// Nobody has connected.
async fn not_dialled(listener: &TcpListener) {
    let dialled = tokio::time::timeout(Duration::from_millis(50), listener.accept()).await;
    assert!(dialled.is_err(), "it was dialled");
}

#[cfg(unix)]
mod program {
    use std::io::{BufRead as _, BufReader};
    use std::path::Path;
    use std::process::{Child, Command, Stdio};

    use super::*;

    struct Running(Child);

    impl Drop for Running {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn command(dir: &Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_port-checker"));
        command.env_clear().env("HOME", dir).current_dir(dir).stdin(Stdio::null());
        command
    }

    /// Its stdout is what `--ready-fd 1` writes to.
    fn start(dir: &Path) -> (Running, Value) {
        let mut child = command(dir)
            .args(["start", "--host", "127.0.0.1", "--port", "0", "--ready-fd", "1"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        (Running(child), serde_json::from_str(&line).unwrap())
    }

    #[tokio::test]
    async fn it_starts_says_where_and_keeps_its_identity() {
        let dir = tempfile::tempdir().unwrap();
        let (first, ready) = start(dir.path());
        assert_eq!(ready["service"], "port-checker");
        let base = format!("http://{}", ready["http"].as_str().unwrap());
        let health = command(dir.path()).args(["health", "--url", &base]).output().unwrap();
        assert!(health.status.success());

        // A second one on the same data is refused and told who has it.
        let second = command(dir.path()).args(["start", "--port", "0"]).output().unwrap();
        let said = String::from_utf8(second.stderr).unwrap();
        assert_eq!(second.status.code(), Some(1));
        assert!(said.contains(&format!("(pid {})", first.0.id())), "{said}");

        drop(first);
        let (_again, later) = start(dir.path());
        assert_eq!(later["id"], ready["id"]);
    }

    #[test]
    fn a_wrong_setting_is_one_sentence() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(".env"), "# mine\nPORT_CHECKER_PORT=abc\n").unwrap();
        let output = command(dir.path()).arg("start").output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(
            said,
            "error: PORT_CHECKER_PORT=abc from .env line 2 is not a port (0 to 65535; 0 takes any free one): \
             invalid digit found in string\n"
        );
    }

    #[test]
    fn a_taken_port_says_how_to_take_another() {
        let dir = tempfile::tempdir().unwrap();
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port().to_string();
        let output = command(dir.path())
            .args(["start", "--host", "127.0.0.1", "--port", &port])
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(
            said.contains("is taken by another program") && said.contains("PORT_CHECKER_PORT"),
            "{said}"
        );
    }

    #[test]
    fn help_shows_how_to_start() {
        let dir = tempfile::tempdir().unwrap();
        for arguments in [&["--help"][..], &["start", "--help"]] {
            let output = command(dir.path()).args(arguments).output().unwrap();
            assert!(output.status.success());
            assert!(String::from_utf8(output.stdout).unwrap().contains("port-checker start --"));
        }
    }
}
