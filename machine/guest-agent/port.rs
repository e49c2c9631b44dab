//! The virtio-serial port, found by its name.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::time::Duration;

use crate::answer::Guest;
use crate::run::Run;
use crate::wire::{MAX_REQUEST, Reader};

const NAME: &str = "org.golem.agent";

/// Between two looks at a port that is not there, or at whose other end nobody is. The kernel does not tell a reader
/// when somebody comes, other than by a signal.
const PAUSE: Duration = Duration::from_millis(100);

/// How long after its resume a clone is left alone.
const LATER: Duration = Duration::from_secs(15);

/// Answers requests for ever.
pub(crate) fn serve(guest: &Guest) {
    loop {
        if let Some(mut port) = open() {
            let mut reader = Reader::new(MAX_REQUEST);
            let mut bytes = vec![0; 16 * 1024];
            loop {
                match port.read(&mut bytes) {
                    // Nobody is there. What came of a request has no end any more.
                    Ok(0) => {
                        reader = Reader::new(MAX_REQUEST);
                        std::thread::sleep(PAUSE);
                    }
                    Ok(count) => reader.push(&bytes[..count]),
                    Err(_) => break,
                }
                while let Some(request) = reader.frame() {
                    let (answer, afterwards) = guest.answer(&request);
                    if port.write_all(&answer.encode()).is_err() {
                        break;
                    }
                    do_later(afterwards);
                }
            }
        }
        std::thread::sleep(PAUSE);
    }
}

/// Does what a clone can do when somebody has logged in: emulated, each of these takes as long as a login.
fn do_later(commands: Vec<Run>) {
    if commands.is_empty() {
        return;
    }
    // Where there can't be a thread, the next boot does them.
    let _ = std::thread::Builder::new().spawn(move || {
        std::thread::sleep(LATER);
        commands.into_iter().for_each(|command| drop(command.run()));
    });
}

/// By what the kernel says and not by udev's links, which come later.
fn open() -> Option<File> {
    let ports = fs::read_dir("/sys/class/virtio-ports").ok()?;
    let port = ports.flatten().find(|port| {
        fs::read_to_string(port.path().join("name")).is_ok_and(|name| name.trim() == NAME)
    })?;
    let device = PathBuf::from("/dev").join(port.file_name());
    OpenOptions::new().read(true).write(true).open(device).ok()
}
