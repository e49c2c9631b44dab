//! What a client that has just connected wants, judged by its first four bytes.

use std::io;
use std::time::Duration;

use golem_vm_protocol::port_proof::{MAX_LINE, Opening, first_line};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long a client is waited for.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// To say what it wants on a port that leads to a VM. SSH clients say it at once.
    pub in_use: Duration,
    /// To say it where nothing but a proof can be had.
    pub free: Duration,
    /// How long one direction of a session may be silent after the other has ended.
    pub half_closed: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            in_use: Duration::from_secs(30),
            free: Duration::from_secs(5),
            half_closed: Duration::from_secs(600),
        }
    }
}

/// What a client wants.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wants {
    /// The VM. What was taken from it so far is what was heard.
    Ssh,
    /// A proof. This is the line, without its end.
    Proof(Vec<u8>),
    /// Nothing that there is: it said something else, said it too slowly, or went away.
    Nothing,
}

/// Reads until it is clear what the client wants: four bytes of an SSH client, one line of a port
/// checker. No more than [`MAX_LINE`] bytes are taken from it, and no more time than `patience`. What was
/// taken is in `heard`; it may begin with what was heard before.
pub(super) async fn wants(client: &TcpStream, heard: &mut Vec<u8>, patience: Duration) -> Wants {
    match timeout(patience, judge(client, heard)).await {
        Ok(Ok(wants)) => wants,
        Ok(Err(_)) | Err(_) => Wants::Nothing,
    }
}

async fn judge(client: &TcpStream, heard: &mut Vec<u8>) -> io::Result<Wants> {
    let mut buffer = [0; MAX_LINE];
    loop {
        match Opening::of(heard) {
            Opening::Ssh => return Ok(Wants::Ssh),
            Opening::Other => return Ok(Wants::Nothing),
            Opening::Undecided => {}
            Opening::Challenge => match first_line(heard) {
                Ok(Some(line)) => return Ok(Wants::Proof(line.to_vec())),
                Ok(None) => {}
                Err(_) => return Ok(Wants::Nothing),
            },
        }
        client.readable().await?;
        let room = buffer.get_mut(heard.len()..).unwrap_or_default();
        match client.try_read(room) {
            Ok(0) => return Ok(Wants::Nothing),
            Ok(read) => heard.extend_from_slice(room.get(..read).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}
