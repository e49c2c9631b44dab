//! What answers as an engine would, or as one that is in trouble would: for tests.
#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::endpoint::{Address, Endpoint};

/// What it does with one call.
#[derive(Debug, Clone)]
pub(super) enum Answer {
    /// Answers with this status and body.
    Says(u16, Value),
    /// The same, with a text.
    Text(u16, &'static str),
    /// Sends these bytes and closes.
    Sends(&'static str),
    /// Closes, as an engine that is killed does.
    Closes,
    /// Resets the connection.
    Resets,
    /// Says nothing for ever.
    Hangs,
}

type Script = dyn FnMut(&str, &str) -> Answer + Send;

/// Listens on loopback, and answers as its script says; the script is given method and path, without the
/// version and the query.
#[derive(Clone)]
pub(super) struct FakeEngine {
    address: String,
    script: Arc<Mutex<Box<Script>>>,
}

impl FakeEngine {
    pub(super) async fn new(script: impl FnMut(&str, &str) -> Answer + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let this = Self { address, script: Arc::new(Mutex::new(Box::new(script))) };
        let served = this.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(served.clone().serve(stream));
            }
        });
        this
    }

    /// From now on it answers so.
    pub(super) fn set(&self, script: impl FnMut(&str, &str) -> Answer + Send + 'static) {
        *self.script.lock().unwrap() = Box::new(script);
    }

    pub(super) fn endpoint(&self) -> Endpoint {
        let address = Address::Tcp(self.address.clone());
        Endpoint { address, reason: "it is a test's".to_owned() }
    }

    async fn serve(self, mut stream: TcpStream) {
        let mut head = Vec::new();
        while !head.windows(4).any(|window| window == b"\r\n\r\n") {
            let mut piece = [0; 4096];
            match stream.read(&mut piece).await {
                Ok(read @ 1..) => head.extend_from_slice(&piece[..read]),
                _ => return,
            }
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let mut words = head.split_whitespace();
        let (method, target) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        let path = target.split('?').next().unwrap_or("");
        let path = match path.strip_prefix("/v") {
            Some(rest) => &rest[rest.find('/').unwrap_or(rest.len())..],
            None => path,
        };
        let answer = (self.script.lock().unwrap())(method, path);
        let (status, body) = match answer {
            Answer::Says(status, body) => (status, body.to_string()),
            Answer::Text(status, body) => (status, body.to_owned()),
            Answer::Sends(bytes) => {
                let _ = stream.write_all(bytes.as_bytes()).await;
                return;
            }
            Answer::Closes => return,
            Answer::Resets => {
                let _ = rustix::net::sockopt::set_socket_linger(
                    &stream,
                    Some(std::time::Duration::ZERO),
                );
                return;
            }
            Answer::Hangs => return std::future::pending().await,
        };
        let reply = format!(
            "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        let _ = stream.write_all(reply.as_bytes()).await;
        // What is still being sent is taken, so that the reply is not lost to a reset.
        let _ = stream.shutdown().await;
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    }
}

/// What an engine of this id says of itself.
pub(super) fn info(id: &str) -> Answer {
    Answer::Says(200, json!({ "ID": id }))
}

/// There is no such container.
pub(super) fn no_container() -> Answer {
    Answer::Says(404, json!({ "message": "No such container: golem-vm" }))
}
