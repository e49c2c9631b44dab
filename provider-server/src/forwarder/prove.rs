//! Answers port checkers: fetches the proof from the provider, who has the key.
//!
//! The forwarder holds no key. It passes a checker's line on over a Unix socket that the provider
//! listens on, with the address on which the line arrived, and passes the provider's line back. While
//! no provider runs there is no proof, and nobody who could have asked for one: a checker dials
//! only while a provider's own request is being answered.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use golem_vm_node::socket_path::SocketPath;
use golem_vm_protocol::port_proof::MAX_LINE;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// The name of the provider's socket in the data directory.
pub const PROOF_SOCKET_NAME: &str = "proof.sock";

/// How long fetching and delivering a proof may take.
const DEADLINE: Duration = Duration::from_secs(4);

/// Proofs that are fetched at a time; the others wait for their turn.
const SIDE_BY_SIDE: usize = 32;

/// Fetches proofs.
#[derive(Debug)]
pub(super) struct Prover {
    data_dir: PathBuf,
    turns: Semaphore,
}

impl Prover {
    /// For the provider of a data directory.
    pub(super) fn new(data_dir: &Path) -> Self {
        Self { data_dir: data_dir.to_owned(), turns: Semaphore::new(SIDE_BY_SIDE) }
    }

    /// Answers `line` of the client with a proof, if there is one. `after` says that other bytes have
    /// gone to the client before, so that the proof has to begin a line.
    pub(super) async fn answer(&self, client: &mut TcpStream, line: &[u8], after: bool) {
        let answered = timeout(DEADLINE, async {
            let here = client.local_addr()?;
            let proof = self.fetch(here, line).await?;
            if proof.is_empty() {
                return Ok(());
            }
            let mut answer = if after { b"\n".to_vec() } else { Vec::new() };
            answer.extend_from_slice(&proof);
            client.write_all(&answer).await?;
            client.shutdown().await
        });
        match answered.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!("no proof could be given: {error}"),
            Err(_) => tracing::debug!("no proof could be given in time"),
        }
    }

    /// The provider's line with its end; empty when it has no answer.
    async fn fetch(&self, here: SocketAddr, line: &[u8]) -> io::Result<Vec<u8>> {
        let _turn = self.turns.acquire().await.map_err(io::Error::other)?;
        let path = SocketPath::new(&self.data_dir, PROOF_SOCKET_NAME)?;
        let mut provider = UnixStream::connect(path.as_path()).await?;
        let mut question = format!("{here} ").into_bytes();
        question.extend_from_slice(line);
        question.push(b'\n');
        provider.write_all(&question).await?;
        let mut proof = Vec::new();
        provider.take(MAX_LINE as u64).read_to_end(&mut proof).await?;
        Ok(proof)
    }
}
