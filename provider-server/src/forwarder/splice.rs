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
use super::flow::Held;
use super::pipes::Pipe;
use super::pump::{Burst, PumpError, TURN};

const FLAGS: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);

/// Moves what there is to read now. Nothing is held when it begins, and nothing when it ends well.
pub(super) async fn burst(
    from: &TcpStream,
    to: &TcpStream,
    held: &mut Held,
    moved: &impl Fn(usize),
) -> Result<Burst, PumpError> {
    let Ok(mut pipe) = Pipe::take() else {
        // Out of files, or over the user's share of pipe memory: this burst goes by memory.
        return copy::burst(from, to, held, moved).await;
    };
    let mut turn = 0;
    loop {
        let filled = from.try_io(Interest::READABLE, || {
            rustix::pipe::splice(from, None, pipe.fill_end(), None, pipe.capacity(), FLAGS)
                .map_err(io::Error::from)
        });
        let read = match filled {
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
        *held = Held::Pipe(pipe, read);
        held.deliver(to, moved).await?;
        let Held::Pipe(emptied, _) = std::mem::take(held) else { return Ok(Burst::Turn) };
        pipe = emptied;
        pipe.clean();
        turn += read;
        if turn >= TURN {
            return Ok(Burst::Turn);
        }
    }
}

/// Writes what `pipe` holds, `left` bytes at most.
pub(super) fn drain(pipe: &Pipe, to: &TcpStream, left: usize) -> io::Result<usize> {
    Ok(rustix::pipe::splice(pipe.drain_end(), None, to, None, left, FLAGS)?)
}
