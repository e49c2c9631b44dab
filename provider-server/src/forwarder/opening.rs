//! What a client that has just connected wants, judged by its first four bytes.

use std::io;
use std::time::Duration;

use golem_vm_protocol::port_proof::{MAX_LINE, Opening, first_line};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long a client may take to say what it wants.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// On a port that leads to a VM. SSH clients say it at once.
    pub in_use: Duration,
    /// Where nothing but a proof can be had.
    pub free: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { in_use: Duration::from_secs(30), free: Duration::from_secs(5) }
    }
}

/// What a client wants.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wants {
    /// The VM. These are the bytes that were taken from it so far.
    Ssh(Vec<u8>),
    /// A proof. This is the line, without its end.
    Proof(Vec<u8>),
    /// Nothing that there is: it said something else, said it too slowly, or went away.
    Nothing,
}

/// Reads until it is clear what the client wants: four bytes of an SSH client, one line of a port
/// checker. No more than [`MAX_LINE`] bytes are taken from it, and no more time than `patience`.
pub(super) async fn wants(client: &TcpStream, patience: Duration) -> Wants {
    match timeout(patience, judge(client)).await {
        Ok(Ok(wants)) => wants,
        Ok(Err(_)) | Err(_) => Wants::Nothing,
    }
}

async fn judge(client: &TcpStream) -> io::Result<Wants> {
    let mut buffer = [0; MAX_LINE];
    let mut filled = 0;
    loop {
        client.readable().await?;
        let room = buffer.get_mut(filled..).unwrap_or_default();
        match client.try_read(room) {
            Ok(0) => return Ok(Wants::Nothing),
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        }
        let received = buffer.get(..filled).unwrap_or_default();
        match Opening::of(received) {
            Opening::Ssh => return Ok(Wants::Ssh(received.to_vec())),
            Opening::Other => return Ok(Wants::Nothing),
            Opening::Undecided => {}
            Opening::Challenge => match first_line(received) {
                Ok(Some(line)) => return Ok(Wants::Proof(line.to_vec())),
                Ok(None) => {}
                Err(_) => return Ok(Wants::Nothing),
            },
        }
    }
}
