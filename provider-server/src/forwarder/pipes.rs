//! Pipes to splice through, kept for the next one who needs one.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::pipe::{PipeFlags, fcntl_getpipe_size, pipe_with};

/// Pipes kept while nobody needs them. At 64 KiB each they may hold 16 MiB of kernel memory, when
/// they were full last; the usual share of a user without privileges is 64 MiB.
const KEPT: usize = 256;

static FREE: Mutex<Vec<Arc<Ends>>> = Mutex::new(Vec::new());

#[derive(Debug)]
struct Ends {
    drain: OwnedFd,
    fill: OwnedFd,
    capacity: usize,
}

/// An empty pipe. It is kept for others when it is given back empty, and closed when not.
#[derive(Debug)]
pub(super) struct Pipe {
    ends: Arc<Ends>,
    empty: bool,
}

impl Pipe {
    /// A pipe that was kept, or a new one.
    ///
    /// # Errors
    /// When there are too many open files.
    pub(super) fn take() -> io::Result<Self> {
        if let Some(ends) = free().pop() {
            return Ok(Self { ends, empty: true });
        }
        let (drain, fill) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let capacity = fcntl_getpipe_size(&fill)?;
        Ok(Self { ends: Arc::new(Ends { drain, fill, capacity }), empty: true })
    }

    /// Where bytes go in.
    pub(super) fn fill_end(&self) -> BorrowedFd<'_> {
        self.ends.fill.as_fd()
    }

    /// Where bytes come out.
    pub(super) fn drain_end(&self) -> BorrowedFd<'_> {
        self.ends.drain.as_fd()
    }

    /// How many bytes fit, at most: less when they come in small pieces.
    pub(super) fn capacity(&self) -> usize {
        self.ends.capacity
    }

    /// Says that there are bytes in the pipe.
    pub(super) fn dirty(&mut self) {
        self.empty = false;
    }

    /// Says that all bytes have been taken out.
    pub(super) fn clean(&mut self) {
        self.empty = true;
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        // A session that was cut may leave its bytes behind: they must not get into another one.
        if self.empty {
            let mut free = free();
            if free.len() < KEPT {
                free.push(Arc::clone(&self.ends));
            }
        }
    }
}

fn free() -> MutexGuard<'static, Vec<Arc<Ends>>> {
    FREE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_pipe_with_bytes_in_it_is_never_handed_on() {
        let mut used = Pipe::take().unwrap();
        rustix::io::write(used.fill_end(), b"secret").unwrap();
        used.dirty();
        let its_ends = Arc::clone(&used.ends);
        drop(used);
        assert_eq!(Arc::strong_count(&its_ends), 1, "it was kept");

        let clean = Pipe::take().unwrap();
        assert!(clean.capacity() >= 4096);
        let mut byte = [0];
        assert_eq!(rustix::io::read(clean.drain_end(), &mut byte), Err(rustix::io::Errno::AGAIN));
    }
}
