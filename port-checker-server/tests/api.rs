//! The service over real sockets, and the program itself.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use golem_port_checker::probe::ProbePolicy;
use golem_port_checker::server::Limits;
use golem_port_checker::{Config, Server};
use golem_vm_node::client::{Call, Reply, SignedClient, SignedReply, Target};
use golem_vm_node::clock::{Clock, ManualClock};
use golem_vm_node::http::TrustedProxies;
use golem_vm_protocol::port_check::{CheckPortsResponse, MAX_PORTS};
use golem_vm_protocol::{ErrorCode, KeyId, KeyPair};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

struct Checker {
    base: String,
    id: KeyId,
    clock: Arc<ManualClock>,
    _stop: tokio_util::sync::DropGuard,
}

async fn checker(allow_unsigned: bool) -> Checker {
    let config = Config {
        host: "127.0.0.1".to_owned(),
        port: 0,
        public_names: Vec::new(),
        data_dir: None,
        allow_unsigned,
        trusted_proxies: TrustedProxies::default(),
        checks_per_minute: 0,
        debug: false,
    };
    let quick = ProbePolicy { pause: Duration::from_millis(1), ..ProbePolicy::default() };
    let clock = Arc::new(ManualClock::at(1_800_000_000));
    let limits = Limits { policy: quick, ..Limits::default() };
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

    async fn signed(&self, body: &Value) -> SignedReply {
        let target = Target::service(&self.base).unwrap();
        self.client().call(&target, &Call::post("/check-ports", body).unwrap()).await.unwrap()
    }

    async fn unsigned(&self, body: &Value) -> Reply {
        self.client()
            .call_unsigned(&self.base, &Call::post("/check-ports", body).unwrap())
            .await
            .unwrap()
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

#[tokio::test]
async fn a_signed_caller_learns_which_of_its_ports_are_open() {
    let checker = checker(false).await;
    let (_held, open) = open_port().await;
    let closed = closed_port().await;
    let reply = checker.signed(&json!({"ports": [open, closed, open]})).await;
    assert_eq!(reply.signer, checker.id);
    let value: Value = reply.reply.json().unwrap();
    assert_eq!(
        value,
        json!({
            "success": true,
            "results": {
                open.to_string(): {"accessible": true, "error": null},
                closed.to_string(): {"accessible": false, "error": "Connection refused"},
            },
            "message": "Successfully verified 1 out of 2 ports",
            "checked_address": "127.0.0.1",
            "observed_address": "127.0.0.1",
            "checker_id": checker.id,
        })
    );
    let reply = checker.signed(&json!({"ports": [closed], "provider_ip": "127.0.0.1"})).await;
    let response: CheckPortsResponse = reply.reply.json().unwrap();
    assert!(!response.success && response.message == "Successfully verified 0 out of 1 ports");
    let none: CheckPortsResponse =
        checker.signed(&json!({"ports": []})).await.reply.json().unwrap();
    assert!(!none.success && none.results.is_empty());
    assert_eq!(none.message, "Successfully verified 0 out of 0 ports");
}

#[tokio::test]
async fn nobody_elses_address_is_dialled() {
    let checker = checker(true).await;
    let (listener, port) = open_port().await;
    // 127.0.0.2 is this machine as well, and still not the caller's address.
    for other in ["127.0.0.2", "localhost", "192.0.2.1"] {
        let reply = checker.signed(&json!({"provider_ip": other, "ports": [port]})).await;
        assert_eq!(reply.reply.status, 403);
        assert_eq!(reply.reply.problem().code, ErrorCode::AddressNotYours);
        assert!(
            reply.reply.problem().detail.contains("127.0.0.1"),
            "{}",
            reply.reply.problem().detail
        );
    }
    let dialled = tokio::time::timeout(Duration::from_millis(50), listener.accept()).await;
    assert!(dialled.is_err(), "a refused request dialled");
}

#[tokio::test]
async fn unsigned_requests_are_served_only_where_they_are_allowed() {
    let strict = checker(false).await;
    let (_held, port) = open_port().await;
    for body in [json!({"provider_ip": "127.0.0.1", "ports": [port]}), json!("anything")] {
        let reply = strict.unsigned(&body).await;
        assert_eq!(
            (reply.status.as_u16(), reply.problem().code),
            (401, ErrorCode::SignatureRequired)
        );
    }
    let lenient = checker(true).await;
    let reply =
        lenient.unsigned(&json!({"provider_ip": "127.0.0.1", "ports": [port.to_string()]})).await;
    let response: CheckPortsResponse = reply.json().unwrap();
    assert!(response.success && response.plain);
    assert_eq!(response.results[&port].error, None);
    let reply = lenient.unsigned(&json!({"ports": [port]})).await;
    assert_eq!(
        (reply.status.as_u16(), reply.problem().errors[0].pointer.as_str()),
        (422, "/provider_ip")
    );
    // A bad signature is no unsigned request.
    let call =
        Call::post("/check-ports", &json!({"provider_ip": "127.0.0.1", "ports": [port]})).unwrap();
    let call = call.header("signature", "sig1=:AAAA:");
    let reply = lenient.client().call_unsigned(&lenient.base, &call).await.unwrap();
    assert_eq!(reply.problem().code, ErrorCode::SignatureInvalid);
}

#[tokio::test]
async fn bad_requests_say_what_is_wrong() {
    let checker = checker(false).await;
    let many: Vec<usize> = (1..=MAX_PORTS + 1).collect();
    let cases = [
        (json!({"ports": [0]}), 422, "Invalid port number: 0"),
        (json!({"ports": [80, 65536]}), 422, "Invalid port number: 65536"),
        (json!({"ports": [-1]}), 422, "Invalid port number: -1"),
        (json!({"ports": ["x"]}), 422, "not a valid integer"),
        (json!({}), 422, "ports"),
        (json!([]), 422, ""),
        (json!({"ports": many}), 422, "at most 1024"),
        (json!({"ports": ["1".repeat(40_000)]}), 413, "32768"),
    ];
    for (body, status, said) in cases {
        let reply = checker.signed(&body).await.reply;
        assert_eq!(reply.status, status);
        assert!(reply.problem().detail.contains(said), "{}", reply.problem().detail);
    }
    let reply =
        checker.client().call_unsigned(&checker.base, &Call::get("/check-ports")).await.unwrap();
    assert_eq!(reply.problem().code, ErrorCode::MethodNotAllowed);
    let reply = checker.client().call_unsigned(&checker.base, &Call::get("/docs")).await.unwrap();
    assert_eq!(reply.problem().code, ErrorCode::NotFound);
}

#[tokio::test]
async fn as_many_ports_as_are_allowed_are_checked_in_one_request() {
    let checker = checker(false).await;
    let (_held, open) = open_port().await;
    let mut ports: Vec<u16> = (1..).filter(|port| *port != open).take(MAX_PORTS - 1).collect();
    ports.push(open);
    let response: CheckPortsResponse =
        checker.signed(&json!({"ports": ports})).await.reply.json().unwrap();
    assert_eq!(response.results.len(), MAX_PORTS);
    assert!(response.results[&open].accessible);
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
