//! `start --background`: the same program again, in a session of its own.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{ExitCode, Stdio};

use anyhow::{Context as _, bail};
use golem_vm_node::data_dir::DataDir;
use golem_vm_protocol::text::printable;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::unix::pipe::Receiver;
use tokio::process::{Child, Command};

use super::exit_code::{self, Coded};
use super::terminal::{Style, print};
use crate::app::own_log;

/// How much of what a start wrote is looked at, in bytes.
const TAIL: u64 = 16 * 1024;
/// How many of its last lines are shown when it does not say why it ended.
const LAST_LINES: usize = 5;

/// Starts the provider, and returns when it serves.
pub(super) fn run(data_dir: &DataDir, json: bool) -> anyhow::Result<ExitCode> {
    // Here, so that a second start says so on this terminal and leaves the log of the first alone.
    drop(data_dir.lock()?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(Box::pin(start(data_dir, json)))
}

async fn start(data_dir: &DataDir, json: bool) -> anyhow::Result<ExitCode> {
    let path = data_dir.path().join(own_log::NAME);
    let mut log = open_log(&path).with_context(|| format!("can't write {}", path.display()))?;
    let before = log.seek(SeekFrom::End(0))?;
    if Style::of_stderr().terminal {
        eprintln!("Starting. The log is {}.", path.display());
    }
    let (reader, mut child) = spawn(&log)?;
    let mut lines = BufReader::new(Receiver::from_owned_fd(reader)?).lines();
    let ready = tokio::select! {
        line = lines.next_line() => line.context("the provider's readiness can't be read")?,
        _ = tokio::signal::ctrl_c() => {
            end(&child);
            let _ = child.wait().await;
            bail!("interrupted; the provider was ended before it was ready");
        }
    };
    // Without a line the pipe was closed: it has ended, or is about to.
    let Some(ready) = ready else {
        let status = child.wait().await?;
        let code = status.code().and_then(|code| u8::try_from(code).ok());
        let code = code.filter(|code| *code != 0).unwrap_or(exit_code::FAILURE);
        return Err(Coded { code, message: why(&path, before) }.into());
    };
    if json {
        print(&format!("{ready}\n"));
    } else {
        print(&told(&ready, child.id(), &path));
    }
    Ok(ExitCode::SUCCESS)
}

/// The process, and the end of the pipe on which it announces that it is ready.
fn spawn(log: &File) -> anyhow::Result<(OwnedFd, Child)> {
    let program = std::env::current_exe().context("can't tell which program this is")?;
    // Both ends are inherited as they are; only the writing one is meant to be.
    let (reader, writer) = rustix::pipe::pipe().context("no pipe can be made")?;
    rustix::io::fcntl_setfd(&reader, rustix::io::FdFlags::CLOEXEC)
        .context("no pipe can be made")?;
    let child = Command::new(&program)
        .args(arguments(std::env::args_os().skip(1)))
        .arg("--detached")
        .arg("--ready-fd")
        .arg(writer.as_raw_fd().to_string())
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log.try_clone()?)
        .spawn()
        .with_context(|| format!("can't start {}", program.display()))?;
    Ok((reader, child))
}

/// The arguments of this process, without what is for this process only.
fn arguments(own: impl Iterator<Item = OsString>) -> Vec<OsString> {
    own.filter(|word| !["--background", "--daemon", "--json"].iter().any(|flag| word == flag))
        .collect()
}

fn open_log(path: &Path) -> std::io::Result<File> {
    if std::fs::metadata(path).is_ok_and(|meta| meta.len() > own_log::LONG) {
        std::fs::rename(path, own_log::aside(path))?;
    }
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

fn end(child: &Child) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok());
    if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
}

/// Why it ended, in its own words: the error that it closed with, else the last lines of its log.
fn why(log: &Path, from: u64) -> String {
    let text = written_since(log, from).unwrap_or_default();
    let error = text.lines().rev().find_map(|line| line.strip_prefix("error: "));
    if let Some(error) = error {
        return printable(error, 4000);
    }
    let mut last: Vec<_> =
        text.lines().rev().take(LAST_LINES).map(|line| printable(line, 500)).collect();
    last.reverse();
    format!("the provider ended at once; its log {} ends with:\n{}", log.display(), last.join("\n"))
}

fn written_since(log: &Path, from: u64) -> std::io::Result<String> {
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(from.max(length.saturating_sub(TAIL))))?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn told(ready: &str, pid: Option<u32>, log: &Path) -> String {
    let ready: Value = serde_json::from_str(ready).unwrap_or_default();
    let member =
        |name: &str| printable(ready.get(name).and_then(Value::as_str).unwrap_or("?"), 100);
    let pid = pid.map_or_else(String::new, |pid| format!(" (process {pid})"));
    format!(
        "The provider runs{pid}: http://{}\n  id    {}\n  log   {}\n  look  golem-provider status\n  stop  golem-provider stop\n",
        member("http"),
        member("id"),
        log.display()
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_same_arguments_are_given_on() {
        let own = ["start", "--port", "1", "--background", "--json"].map(OsString::from);
        let given = arguments(own.into_iter());
        assert_eq!(given, ["start", "--port", "1"].map(OsString::from));
    }

    #[test]
    fn what_a_start_said_is_found_in_its_log() {
        let root = tempfile::tempdir().unwrap();
        let log = root.path().join("provider.log");
        std::fs::write(&log, "error: old\n{\"level\":\"INFO\"}\nerror: port 1 is taken\n").unwrap();
        assert_eq!(why(&log, 11), "port 1 is taken");
        std::fs::write(&log, "error: old\nkilled\u{1b}\n").unwrap();
        assert!(why(&log, 11).ends_with("ends with:\nkilled\u{fffd}"), "{}", why(&log, 11));
    }
}
