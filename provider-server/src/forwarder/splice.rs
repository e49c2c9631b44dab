//! Moves bytes from socket to socket inside the kernel, through a pipe: splice(2).
//!
//! A pipe is always emptied before it is filled again. So "would block" while filling can only
//! mean that there is nothing to read, and while emptying only that the receiver is full.

use std::io;

use rustix::io::Errno;
use rustix::pipe::SpliceFlags;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::copy;
use super::pipes::Pipe;
use super::pump::{Burst, PumpError, TURN};

const FLAGS: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);

/// Moves what there is to read now.
pub(super) async fn burst(
    from: &TcpStream,
    to: &TcpStream,
    moved: &impl Fn(usize),
) -> Result<Burst, PumpError> {
    let Ok(mut pipe) = Pipe::take() else {
        // Out of files, or over the user's share of pipe memory: this burst goes by memory.
        return copy::burst(from, to, moved).await;
    };
    let mut turn = 0;
    loop {
        let filled = from.try_io(Interest::READABLE, || {
            rustix::pipe::splice(from, None, pipe.fill_end(), None, pipe.capacity(), FLAGS)
                .map_err(io::Error::from)
        });
        let mut left = match filled {
            Ok(0) => return Ok(Burst::End),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Burst::Idle),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error)
                if [Errno::INVAL, Errno::NOSYS, Errno::OPNOTSUPP]
                    .iter()
                    .any(|errno| error.raw_os_error() == Some(errno.raw_os_error())) =>
            {
                return Ok(Burst::Unsupported);
            }
            Err(error) => return Err(PumpError::From(error)),
        };
        pipe.dirty();
        while left > 0 {
            let written = to
                .async_io(Interest::WRITABLE, || {
                    rustix::pipe::splice(pipe.drain_end(), None, to, None, left, FLAGS)
                        .map_err(io::Error::from)
                })
                .await;
            match written {
                // Can't be while the pipe holds bytes; without this it would spin.
                Ok(0) => return Err(PumpError::To(io::ErrorKind::WriteZero.into())),
                Ok(written) => {
                    left = left.saturating_sub(written);
                    turn += written;
                    moved(written);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(PumpError::To(error)),
            }
        }
        pipe.clean();
        if turn >= TURN {
            return Ok(Burst::Turn);
        }
    }
}
