//! Proves to port checkers that a port is this provider's: at the API's own listener, and for the
//! forwarder, which holds the other ports and no key.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use golem_vm_node::control::{ControlError, ControlSocket};
use golem_vm_node::http::{Opened, Opening};
use golem_vm_protocol::KeyPair;
use golem_vm_protocol::port_proof::{self, Challenge, MAX_LINE, first_line};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::forwarder::PROOF_SOCKET_NAME;

/// Questions of the forwarder that are answered at a time; it asks no more.
const SIDE_BY_SIDE: usize = 64;
/// Time for one question. The forwarder has the whole line when it asks.
const DEADLINE: Duration = Duration::from_secs(2);
/// Longest question in bytes: an address, a blank and a checker's line.
const MAX_QUESTION: usize = MAX_LINE + 64;

/// Signs proofs with the provider's key. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PortProofs {
    key: Arc<KeyPair>,
}

impl PortProofs {
    /// Proofs by `key`.
    #[must_use]
    pub fn new(key: KeyPair) -> Self {
        Self { key: Arc::new(key) }
    }

    /// The answer to a checker's `line` that arrived at `here`, with its end. None for what is no
    /// challenge, and for one that was meant for another port: under which address the world
    /// reaches this host is not known here, but its ports are.
    #[must_use]
    pub fn answer(&self, here: SocketAddr, line: &[u8]) -> Option<String> {
        let challenge = Challenge::parse(line).ok()?;
        let meant = challenge.dialled.is_none_or(|dialled| dialled.port() == here.port());
        meant.then(|| format!("{}\n", challenge.answer(&self.key, here)))
    }

    /// Answers the forwarder on `listener` until `shutdown`.
    pub async fn serve(self, listener: UnixListener, shutdown: CancellationToken) {
        let places = Arc::new(Semaphore::new(SIDE_BY_SIDE));
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match (accepted, Arc::clone(&places).try_acquire_owned()) {
                (Ok((stream, _)), Ok(place)) => {
                    let proofs = self.clone();
                    tokio::spawn(async move {
                        let _place = place;
                        if let Ok(Err(error)) = timeout(DEADLINE, proofs.question(stream)).await {
                            tracing::debug!("the forwarder's question: {error}");
                        }
                    });
                }
                // It is closed, and the checker asks again.
                (Ok(_), Err(_)) => {}
                (Err(error), _) => {
                    tracing::warn!("can't accept a question of the forwarder: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn question(&self, mut stream: UnixStream) -> io::Result<()> {
        let mut question = Vec::new();
        while question.last() != Some(&b'\n') && question.len() < MAX_QUESTION {
            let room = (MAX_QUESTION - question.len()) as u64;
            if (&mut stream).take(room).read_buf(&mut question).await? == 0 {
                break;
            }
        }
        if let Some(answer) = self.answer_to(&question) {
            stream.write_all(answer.as_bytes()).await?;
        }
        stream.shutdown().await
    }

    /// `ADDRESS:PORT CHALLENGE` and a line feed.
    fn answer_to(&self, question: &[u8]) -> Option<String> {
        let line = question.strip_suffix(b"\n")?;
        let blank = line.iter().position(|byte| *byte == b' ')?;
        let here = std::str::from_utf8(line.get(..blank)?).ok()?.parse().ok()?;
        self.answer(here, line.get(blank + 1..)?)
    }
}

/// At the API's own port.
impl Opening for PortProofs {
    fn judge(&self, here: SocketAddr, received: &[u8]) -> Opened {
        match port_proof::Opening::of(received) {
            port_proof::Opening::Undecided => Opened::More,
            port_proof::Opening::Ssh | port_proof::Opening::Other => Opened::Http,
            port_proof::Opening::Challenge => match first_line(received) {
                Ok(None) => Opened::More,
                Ok(Some(line)) => {
                    Opened::Answered(self.answer(here, line).unwrap_or_default().into_bytes())
                }
                Err(_) => Opened::Answered(Vec::new()),
            },
        }
    }
}

/// Listens for the forwarder in the data directory. Call it while holding the directory's lock.
///
/// # Errors
/// When the socket can't be had.
pub fn bind_proof_socket(data_dir: &Path) -> Result<(ControlSocket, UnixListener), ControlError> {
    ControlSocket::bind(&data_dir.join(PROOF_SOCKET_NAME))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use golem_vm_protocol::port_proof::Proof;
    use golem_vm_protocol::signature::Nonce;

    use super::*;

    fn key(byte: u8) -> KeyPair {
        KeyPair::from_secret_bytes([byte; 32]).unwrap()
    }

    fn challenge(dialled: &str) -> Challenge {
        Challenge::new(Nonce::from_bytes([4; 16]), key(2).id(), dialled.parse().unwrap())
    }

    #[test]
    fn it_answers_for_its_own_ports_whatever_the_address() {
        let proofs = PortProofs::new(key(1));
        let here = "10.0.0.5:50800".parse().unwrap();
        let asked = challenge("192.0.2.1:50800");
        let line = proofs.answer(here, asked.to_string().as_bytes()).unwrap();
        let proof = Proof::parse(line.trim_end().as_bytes()).unwrap();
        assert_eq!(proof.verify(&asked, "192.0.2.1:50800".parse().unwrap(), key(1).id()), Ok(()));
        let elsewhere = challenge("192.0.2.1:22").to_string();
        assert_eq!(proofs.answer(here, elsewhere.as_bytes()), None);
        assert_eq!(proofs.answer(here, b"SSH-2.0-client"), None);
    }

    #[test]
    fn the_apis_port_tells_a_challenge_from_http() {
        let proofs = PortProofs::new(key(1));
        let here = "10.0.0.5:7466".parse().unwrap();
        let line = format!("{}\n", challenge("192.0.2.1:7466"));
        for short in ["", "G", "GOL", "GOLEM-PORT-PROOF/1 ", line.trim_end()] {
            assert_eq!(proofs.judge(here, short.as_bytes()), Opened::More, "{short}");
        }
        for http in ["GE", "GET / HTTP/1.1\r\n", "POST", "SSH-", "\x16\x03\x01"] {
            assert_eq!(proofs.judge(here, http.as_bytes()), Opened::Http, "{http}");
        }
        let Opened::Answered(answer) = proofs.judge(here, line.as_bytes()) else { panic!() };
        assert!(Proof::parse(answer.trim_ascii_end()).is_ok());
        for bad in [format!("GOLE{}", "x".repeat(300)), "GOLEM ME\n".to_owned()] {
            assert_eq!(proofs.judge(here, bad.as_bytes()), Opened::Answered(Vec::new()), "{bad}");
        }
    }

    #[tokio::test]
    async fn the_forwarders_questions_are_answered_and_nonsense_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let (_socket, listener) = bind_proof_socket(directory.path()).unwrap();
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(PortProofs::new(key(1)).serve(listener, shutdown.clone()));
        let ask = async |question: String| {
            let path = directory.path().join(PROOF_SOCKET_NAME);
            let mut stream = UnixStream::connect(path).await.unwrap();
            stream.write_all(question.as_bytes()).await.unwrap();
            let mut answer = String::new();
            // What is longer than a question is cut off, and not read to its end.
            let _ = stream.read_to_string(&mut answer).await;
            answer
        };
        let line = challenge("192.0.2.1:50800");
        assert!(ask(format!("10.0.0.5:50800 {line}\n")).await.starts_with(port_proof::TAG));
        for nonsense in [
            format!("10.0.0.5:50801 {line}\n"),
            format!("{line}\n"),
            format!("10.0.0.5:50800  {line}\n"),
            "\n".to_owned(),
            "x".repeat(100_000),
        ] {
            assert_eq!(ask(nonsense.clone()).await, "", "{nonsense}");
        }
        shutdown.cancel();
        serving.await.unwrap();
    }
}
