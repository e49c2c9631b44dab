//! What a machine says on its serial port, and typing there.
//!
//! QEMU writes it to a small file system in memory that only it sees, so that a guest that says much while nobody
//! is there fills nothing. From there it is moved to a file beside the manifest, of which the last part is kept.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::{
    CWD, FallocateFlags, Mode, OFlags, ResolveFlags, SeekFrom, fallocate, openat, openat2, seek,
};
use tokio::net::UnixStream;

use super::machines::Held;
use super::start::LOG_BYTES;
use super::{MachineError, MachineName, Machines};
use crate::hardware::{CONSOLE_LOG, CONSOLE_SOCKET, LOG_DIRECTORY};
use crate::process::{Peer, ProcessIdentity};

/// How much is kept, in bytes; when it is more, the older half goes.
pub(super) const KEPT: u64 = 512 * 1024;

impl Machines {
    /// What the machine has said, the last [`KEPT`] bytes at most, also of earlier starts.
    ///
    /// # Errors
    /// When there is no such machine, or it can't be read.
    pub async fn console_log(&self, name: &MachineName) -> Result<Vec<u8>, MachineError> {
        let held = self.hold(name).await;
        let manifest = held.there()?;
        if let Some(run) = &manifest.run {
            held.keep_console(&run.process);
        }
        let file = held.console();
        match fs::read(&file) {
            Ok(said) => Ok(said),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(MachineError::io("read", &file)(error)),
        }
    }

    /// The machine's serial port: what is written goes to the guest, what the guest says from now on is read. One
    /// at a time; the log gets all of it as well.
    ///
    /// # Errors
    /// When it does not run, or somebody has it.
    pub async fn console(&self, name: &MachineName) -> Result<UnixStream, MachineError> {
        let held = self.hold(name).await;
        let manifest = held.there()?;
        let Some(run) = &manifest.run else {
            return Err(MachineError::NotNow(format!("{name} does not run: start it first")));
        };
        let guest = held.guest_directory();
        let stream = Peer::new(&guest, CONSOLE_SOCKET, &run.process).connect().await;
        stream.map_err(|error| MachineError::Unknown(format!("the console of {name}: {error}")))
    }
}

impl Held<'_> {
    fn console(&self) -> std::path::PathBuf {
        self.directory().join("console.log")
    }

    /// Moves what the machine has said to where it is kept. That this fails is no reason for anything else to.
    pub(super) fn keep_console(&self, process: &ProcessIdentity) {
        let said = match take(process) {
            Ok(said) => said,
            Err(error) => {
                tracing::debug!(machine = %self.name, "its console: {error}");
                return;
            }
        };
        if let Err(error) = add(&self.console(), &said) {
            tracing::warn!(machine = %self.name, "keeping what its console said: {error}");
        }
    }
}

/// Takes what is in the file system that only the process sees, and frees its room.
fn take(process: &ProcessIdentity) -> io::Result<Vec<u8>> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, format!("/proc/{}/root", process.pid), flags, Mode::empty())?;
    if !process.alive()? {
        return Ok(Vec::new());
    }
    // The process may have put a link there, to anything.
    let file = openat2(
        &root,
        format!("{}/{CONSOLE_LOG}", LOG_DIRECTORY.trim_start_matches('/')),
        OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
    );
    let mut file = match file {
        Ok(file) => File::from(file),
        // It has not opened it yet.
        Err(rustix::io::Errno::NOENT) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("what is there is no file"));
    }
    // Where it was emptied before there is a hole.
    if seek(&file, SeekFrom::Data(0)).is_err() {
        return Ok(Vec::new());
    }
    let mut said = Vec::new();
    Read::by_ref(&mut file).take(LOG_BYTES).read_to_end(&mut said)?;
    let end = seek(&file, SeekFrom::Current(0))?;
    fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, end)?;
    // The hole ends within a page, of which the beginning reads as zeros the next time.
    let begin = said.iter().position(|byte| *byte != 0).unwrap_or(said.len());
    said.drain(..begin);
    Ok(said)
}

/// Adds to a file of which the last part is kept.
fn add(path: &Path, said: &[u8]) -> io::Result<()> {
    if said.is_empty() {
        return Ok(());
    }
    let mut options = OpenOptions::new();
    let mut file = options.create(true).append(true).mode(0o600).open(path)?;
    file.write_all(said)?;
    if file.metadata()?.len() > KEPT {
        let all = fs::read(path)?;
        let begin = all.len() - usize::try_from(KEPT / 2).unwrap_or(all.len()).min(all.len());
        let new = path.with_extension("new");
        let mut options = OpenOptions::new();
        let mut file = options.create(true).write(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&all[begin..])?;
        fs::rename(new, path)?;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_what_was_said_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("console.log");
        let piece = vec![b'x'; 100_000];
        for _ in 0..30 {
            add(&path, &piece).unwrap();
            assert!(fs::metadata(&path).unwrap().len() <= KEPT);
        }
        add(&path, b"the end").unwrap();
        assert!(fs::read(&path).unwrap().ends_with(b"the end"));
    }
}
