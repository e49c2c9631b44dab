//! Moves bytes through a buffer of this process: the way that works everywhere.

use std::io;

use tokio::net::TcpStream;

use super::pump::{Burst, PumpError, TURN};

/// Bytes per buffer. Twice the CPU is spent with 8 KiB, hardly less with 256 KiB.
const BUFFER: usize = 64 * 1024;

/// Moves what there is to read now.
pub(super) async fn burst(
    from: &TcpStream,
    to: &TcpStream,
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
        let mut rest = buffer.as_slice();
        while !rest.is_empty() {
            to.writable().await.map_err(PumpError::To)?;
            match to.try_write(rest) {
                Ok(written) => {
                    moved(written);
                    turn += written;
                    rest = rest.get(written..).unwrap_or_default();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(PumpError::To(error)),
            }
        }
        if turn >= TURN {
            return Ok(Burst::Turn);
        }
    }
}
