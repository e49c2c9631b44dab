//! Asking a port whose it is: one line sent, a bounded reply read.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use golem_vm_protocol::KeyId;
use golem_vm_protocol::port_check::NotProven;
use golem_vm_protocol::port_proof::{Challenge, ProofError, ProofScan};
use golem_vm_protocol::signature::Nonce;
use golem_vm_protocol::text::printable;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::probe::Failure;

/// Asks on `stream`, dialled at `address`, for a proof that `provider` answers there. Takes no
/// longer than `limit`, and reads no more than [`MAX_REPLY`](golem_vm_protocol::port_proof::MAX_REPLY).
///
/// # Errors
/// What came instead.
pub(crate) async fn ask(
    mut stream: TcpStream,
    address: SocketAddr,
    checker: KeyId,
    provider: KeyId,
    limit: Duration,
) -> Result<(), Failure> {
    let until = Instant::now() + limit;
    let no_proof = |detail: &str| Failure::new(NotProven::NoProof, detail);
    let nonce = Nonce::random()
        .map_err(|error| Failure::new(NotProven::NotTried, format!("Not checked: {error}")))?;
    let challenge = Challenge::new(nonce, checker, address);
    // It fits into the socket's empty buffer, so this does not wait.
    if let Err(error) = stream.write_all(format!("{challenge}\n").as_bytes()).await {
        return Err(broken(&error));
    }
    let mut scan = ProofScan::default();
    let mut wrong = None;
    let mut piece = [0; 512];
    loop {
        match timeout_at(until, stream.read(&mut piece)).await {
            Ok(Ok(0)) => break,
            Ok(Ok(read)) => scan.push(piece.get(..read).unwrap_or_default()),
            Ok(Err(error)) => return Err(wrong.unwrap_or_else(|| broken(&error))),
            Err(_) => {
                let late = || no_proof("A connection, but no proof in time");
                return Err(wrong.unwrap_or_else(late));
            }
        }
        for proof in scan.by_ref() {
            match proof.verify(&challenge, address, provider) {
                Ok(()) => return Ok(()),
                // A guest's server may have sent it: the provider's own may still come.
                Err(error) => wrong = Some(wrong_proof(error)),
            }
        }
        if scan.is_full() {
            break;
        }
    }
    Err(wrong.unwrap_or_else(|| no_proof("A connection, but another program answers there")))
}

fn wrong_proof(error: ProofError) -> Failure {
    let detail = match error {
        ProofError::OtherProvider(_) => "Another provider answers there",
        ProofError::Signature => "The answer there is not a proof for this check",
    };
    Failure::new(NotProven::WrongProof, detail)
}

fn broken(error: &io::Error) -> Failure {
    let said = printable(&error.to_string(), 100);
    Failure::new(NotProven::NoProof, format!("A connection, but no proof: {said}"))
}
