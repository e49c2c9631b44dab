//! Leaves the process that started this one behind: its session, terminal and open files.

use std::fs;
use std::io;

/// Begins a session of its own and closes everything but the three standard files.
///
/// A signal to the provider's terminal or process group then doesn't reach this process, and
/// nobody waits for the end of a pipe that this process had inherited by accident. To be called
/// at the very start, before anything is opened and while there is only one thread.
///
/// # Errors
/// When the process leads a process group already, which one that was just spawned doesn't.
pub fn detach() -> io::Result<()> {
    rustix::process::setsid()?;
    close_inherited();
    Ok(())
}

/// Closes everything but the three standard files.
pub(super) fn close_inherited() {
    // Both Linux and macOS list a process's own files here.
    let Ok(entries) = fs::read_dir("/dev/fd") else { return };
    let open: Vec<i32> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|fd| *fd > 2)
        .collect();
    for fd in open {
        // One of the numbers was the listing's own and is closed by now, which is no harm.
        // SAFETY: the caller promises that nothing has been opened yet, so no owner of these
        // files exists in this process: they were inherited.
        #[allow(unsafe_code)]
        let _ = unsafe { libc::close(fd) };
    }
}
