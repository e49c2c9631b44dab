//! Which process it is: a pid says nothing once its process has ended.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// One process of one boot of this machine, for ever: what is written down of a process that outlives the one
/// that started it. It stays the same when the process becomes another program (`exec`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// Its number, which another process may have had before and another may get later.
    pub pid: u32,
    /// When it was started, in clock ticks since the machine's start (field 22 of `/proc/PID/stat`, proc(5)).
    pub start: u64,
    /// Which start of the machine that was (`/proc/sys/kernel/random/boot_id`).
    pub boot: String,
}

impl ProcessIdentity {
    /// The identity of the process that has this pid now. Of a child that has ended and was not waited for yet
    /// it is told as well; [`alive`](Self::alive) is false then.
    ///
    /// # Errors
    /// When there is no such process ([`io::ErrorKind::NotFound`]), or `/proc` can't be read.
    pub fn of(pid: u32) -> io::Result<Self> {
        Ok(Self { pid, start: Stat::read(pid)?.start, boot: boot()? })
    }

    /// Whether exactly this process still runs. A process that has ended and that nobody waited for yet (a
    /// zombie) does not.
    ///
    /// # Errors
    /// When `/proc` can't be read: nothing is known then, in particular not that it has ended.
    pub fn alive(&self) -> io::Result<bool> {
        if boot()? != self.boot {
            return Ok(false);
        }
        match Stat::read(self.pid) {
            Ok(stat) => Ok(stat.start == self.start && !stat.ended),
            Err(error) if is_gone(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Sends a signal to exactly this process. `false` when it has ended: nothing was signalled then.
    ///
    /// # Errors
    /// When the process can't be proved to be this one, or may not be signalled; in both cases nothing was.
    pub fn signal(&self, signal: Signal) -> io::Result<bool> {
        let Some(held) = self.hold()? else { return Ok(false) };
        match pidfd_send_signal(&held, signal) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::SRCH) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until this process has ended, for `within` at most. Whether it has.
    ///
    /// # Errors
    /// When nothing can be told of it.
    pub async fn ended(&self, within: Duration) -> io::Result<bool> {
        let Some(held) = self.hold()? else { return Ok(true) };
        // The kernel makes a pidfd readable when its process has ended (pidfd_open(2)).
        // What replaces this call is `unsafe`, because of descriptors that do not stay open or the same for as
        // long as they are watched. An `OwnedFd` does both.
        #[allow(deprecated)]
        let held = AsyncFd::with_interest(held, Interest::READABLE)?;
        match tokio::time::timeout(within, held.readable()).await {
            Ok(ready) => ready.map(|_| true),
            Err(_) => Ok(false),
        }
    }

    /// Sends SIGKILL and waits until the process has ended, for `within` at most. Whether it has.
    ///
    /// # Errors
    /// As [`signal`](Self::signal) and [`ended`](Self::ended).
    pub async fn kill(&self, within: Duration) -> io::Result<bool> {
        if !self.signal(Signal::KILL)? {
            return Ok(true);
        }
        self.ended(within).await
    }

    /// A handle of exactly this process; `None` when it has ended.
    fn hold(&self) -> io::Result<Option<OwnedFd>> {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::other(format!("{} is no pid", self.pid)))?;
        let held = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(held) => held,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // Looked at after the handle was taken: if the pid is this process's now, the handle is either of it or
        // of one that had the pid before and is gone, which no signal reaches.
        Ok(self.alive()?.then_some(held))
    }
}

/// What `/proc/PID/stat` says of a process.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    /// Whether it has ended and waits to be waited for.
    pub(crate) ended: bool,
    /// CPU that it has used, in clock ticks, its own and the kernel's for it.
    pub(crate) cpu: u64,
    /// When it was started, in clock ticks since the machine's start.
    pub(crate) start: u64,
}

impl Stat {
    /// Of the process that has this pid now.
    pub(crate) fn read(pid: u32) -> io::Result<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        Self::parse(&text)
            .ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat can't be understood")))
    }

    /// Of the file's text. The name in parentheses may hold spaces and parentheses itself.
    fn parse(text: &str) -> Option<Self> {
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // The third field of the file is the first one here.
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        let state = *fields.first()?;
        Some(Self {
            ended: matches!(state, "Z" | "X" | "x"),
            cpu: number(14)?.checked_add(number(15)?)?,
            start: number(22)?,
        })
    }
}

/// CPU that exactly this process has used, and memory of the host's that it has now, in bytes.
///
/// # Errors
/// When it has ended ([`io::ErrorKind::NotFound`]), or that can't be told.
pub fn cpu_time(process: &ProcessIdentity) -> io::Result<(Duration, u64)> {
    let stat = Stat::read(process.pid)?;
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid))?;
    if stat.start != process.start || !process.alive()? {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the process has ended"));
    }
    let ticks = rustix::param::clock_ticks_per_second().max(1);
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = resident.and_then(|rest| rest.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    let millis = stat.cpu.saturating_mul(1000) / ticks;
    Ok((Duration::from_millis(millis), kib.unwrap_or(0) * 1024))
}

/// Which start of the machine this is.
fn boot() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// Whether the error says that there is no such process.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    /// A process that runs until its standard input is closed.
    fn waiting() -> Child {
        Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
    }

    #[test]
    fn a_name_with_parentheses_and_spaces_hides_nothing() {
        let text = "7 (a) S 1 (b) R 1 7 7 0 -1 4194560 9 0 0 0 3 4 0 0 20 0 1 0 4711 12 0";
        assert_eq!(Stat::parse(text), Some(Stat { ended: false, cpu: 7, start: 4711 }));
        assert!(
            Stat::parse("7 (x) Z 1 7 7 0 -1 4194560 9 0 0 0 3 4 0 0 20 0 1 0 1").unwrap().ended
        );
        for broken in
            ["", "7 x S", "7 (x) S 1 2 3", "7 (x) S 1 7 7 0 -1 0 9 0 0 0 a 4 0 0 20 0 1 0 1"]
        {
            assert_eq!(Stat::parse(broken), None, "{broken:?}");
        }
    }

    #[tokio::test]
    async fn a_process_is_known_until_it_ends_and_not_after() {
        let mut child = waiting();
        let identity = ProcessIdentity::of(child.id()).unwrap();
        assert!(identity.alive().unwrap());
        assert!(!identity.ended(Duration::ZERO).await.unwrap());
        assert_eq!(
            serde_json::from_str::<ProcessIdentity>(&serde_json::to_string(&identity).unwrap())
                .unwrap(),
            identity
        );
        drop(child.stdin.take());
        assert!(identity.ended(LONG).await.unwrap());
        // Ended, and still in the table of processes because nobody has waited for it.
        assert!(!identity.alive().unwrap());
        child.wait().unwrap();
        assert!(!identity.alive().unwrap());
        assert!(identity.ended(Duration::ZERO).await.unwrap());
        assert!(!identity.signal(Signal::KILL).unwrap());
    }

    #[tokio::test]
    async fn a_process_that_only_has_the_same_pid_is_never_signalled() {
        let mut child = waiting();
        let truth = ProcessIdentity::of(child.id()).unwrap();
        let other_start = ProcessIdentity { start: truth.start + 1, ..truth.clone() };
        let other_boot = ProcessIdentity { boot: "another".to_owned(), ..truth.clone() };
        for stranger in [other_start, other_boot] {
            assert!(!stranger.alive().unwrap());
            assert!(!stranger.signal(Signal::KILL).unwrap());
            assert!(stranger.kill(LONG).await.unwrap());
        }
        assert!(truth.alive().unwrap(), "a stranger was signalled");
        assert!(truth.kill(LONG).await.unwrap());
        child.wait().unwrap();
    }

    #[test]
    fn what_is_no_pid_is_no_process() {
        let real = ProcessIdentity::of(std::process::id()).unwrap();
        for pid in [0, u32::MAX] {
            assert!(ProcessIdentity { pid, ..real.clone() }.signal(Signal::KILL).is_err());
        }
        assert!(is_gone(&ProcessIdentity::of(u32::MAX).unwrap_err()));
    }
}
