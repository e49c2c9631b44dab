//! Moves bytes through a buffer of this process: the way that works everywhere.

use std::io;

use tokio::net::TcpStream;

use super::flow::Held;
use super::pump::{Burst, PumpError, TURN};

/// Bytes per buffer. Twice the CPU is spent with 8 KiB, hardly less with 256 KiB.
const BUFFER: usize = 64 * 1024;

/// Moves what there is to read now. Nothing is held when it begins, and nothing when it ends well.
pub(super) async fn burst(
    from: &TcpStream,
    to: &TcpStream,
    held: &mut Held,
    moved: &impl Fn(usize),
) -> Result<Burst, PumpError> {
    let mut buffer = Vec::with_capacity(BUFFER);
    let mut turn = 0;
    loop {
        buffer.clear();
        match from.try_read_buf(&mut buffer) {
            Ok(0) => return Ok(Burst::End),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Burst::Idle),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(PumpError::From(error)),
        }
        turn += buffer.len();
        *held = Held::Bytes(buffer, 0);
        held.deliver(to, moved).await?;
        let Held::Bytes(emptied, _) = std::mem::take(held) else { return Ok(Burst::Turn) };
        buffer = emptied;
        if turn >= TURN {
            return Ok(Burst::Turn);
        }
    }
}
