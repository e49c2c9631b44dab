//! How far one direction of a session is: what has to be known to go on with it, at any moment, also in
//! another program.
//!
//! Bytes that were taken from the sender are held here, and not by whoever moves them, until the receiver
//! has them. So a mover can be dropped wherever it waits, and nothing is lost or doubled.

use std::io;

use tokio::io::Interest;
use tokio::net::TcpStream;

#[cfg(target_os = "linux")]
use super::pipes::Pipe;
use super::pump::PumpError;

/// One direction of a session.
#[derive(Debug, Default)]
pub(super) struct Flow {
    /// What was taken from the sender, and the receiver does not have yet.
    pub(super) held: Held,
    /// How far it is.
    pub(super) stage: Stage,
}

/// How far a direction is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Stage {
    /// The sender may say more.
    #[default]
    Open,
    /// The sender has said all; the receiver has not been told.
    Ended,
    /// The sender has said all, and the receiver knows.
    Passed,
    /// The receiver takes nothing any more.
    Refused,
}

/// Bytes between sender and receiver.
#[derive(Debug, Default)]
pub(super) enum Held {
    /// None.
    #[default]
    Nothing,
    /// In memory: the bytes, and how many of them the receiver has.
    Bytes(Vec<u8>, usize),
    /// In a pipe: how many are left in it.
    #[cfg(target_os = "linux")]
    Pipe(Pipe, usize),
}

impl Held {
    /// Gives the receiver all of it.
    ///
    /// # Errors
    /// When the receiver is broken. What it has not taken stays.
    pub(super) async fn deliver(
        &mut self,
        to: &TcpStream,
        moved: &impl Fn(usize),
    ) -> Result<(), PumpError> {
        while !self.is_empty() {
            let written = to.async_io(Interest::WRITABLE, || self.write(to)).await;
            match written {
                // Can't be while something is held; without this it would spin.
                Ok(0) => return Err(PumpError::To(io::ErrorKind::WriteZero.into())),
                Ok(written) => {
                    self.advance(written);
                    moved(written);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(PumpError::To(error)),
            }
        }
        Ok(())
    }

    /// All of it as bytes, for somebody else to go on with.
    ///
    /// # Errors
    /// When a pipe can't be read.
    pub(super) fn into_bytes(self) -> io::Result<Vec<u8>> {
        match self {
            Self::Nothing => Ok(Vec::new()),
            Self::Bytes(mut bytes, written) => {
                bytes.drain(..written.min(bytes.len()));
                Ok(bytes)
            }
            #[cfg(target_os = "linux")]
            Self::Pipe(pipe, left) => {
                let mut bytes = vec![0; left];
                let mut filled = 0;
                while let Some(room) = bytes.get_mut(filled..).filter(|room| !room.is_empty()) {
                    match rustix::io::read(pipe.drain_end(), room) {
                        Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                        Ok(read) => filled += read,
                        Err(rustix::io::Errno::INTR) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                Ok(bytes)
            }
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Nothing => true,
            Self::Bytes(bytes, written) => *written >= bytes.len(),
            #[cfg(target_os = "linux")]
            Self::Pipe(_, left) => *left == 0,
        }
    }

    fn write(&self, to: &TcpStream) -> io::Result<usize> {
        match self {
            Self::Nothing => Ok(0),
            Self::Bytes(bytes, written) => {
                let rest = bytes.get(*written..).unwrap_or_default();
                let flags = rustix::net::SendFlags::NOSIGNAL | rustix::net::SendFlags::DONTWAIT;
                Ok(rustix::net::send(to, rest, flags)?)
            }
            #[cfg(target_os = "linux")]
            Self::Pipe(pipe, left) => super::splice::drain(pipe, to, *left),
        }
    }

    fn advance(&mut self, by: usize) {
        match self {
            Self::Nothing => {}
            Self::Bytes(_, written) => *written += by,
            #[cfg(target_os = "linux")]
            Self::Pipe(_, left) => *left = left.saturating_sub(by),
        }
    }
}

impl From<Vec<u8>> for Held {
    fn from(bytes: Vec<u8>) -> Self {
        if bytes.is_empty() { Self::Nothing } else { Self::Bytes(bytes, 0) }
    }
}
