//! Programs that take minutes: told of while they run, and ended with all that they started.

use std::collections::VecDeque;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::rootfs::Place;
use crate::image::{ImageError, Progress, say};

/// Lines of a program's output that are kept for its error.
const KEPT_LINES: usize = 12;
/// How often is looked whether a program has ended after its output has.
const POLL: Duration = Duration::from_millis(20);

/// What of the owner's environment the programs see. Anything else could end up in an image: packages' scripts go by such
/// variables, too.
const ENVIRONMENT: [&str; 9] = [
    "HOME",
    "USER",
    "LOGNAME",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
];

/// A program in a process group of its own. Dropped while it runs, the group is asked to end, so that it can remove
/// what it made.
pub(super) struct Worker {
    pub(super) command: Command,
    program: &'static str,
    package: &'static str,
    running: Option<Running>,
}

struct Running {
    child: Child,
    ended: bool,
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            self.signal(Signal::TERM);
            // Whoever asked for it is gone; what it leaves when it does not end is removed by the next one.
            let _ = self.child.try_wait();
        }
    }
}

impl Running {
    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(group) = pid {
            let _ = kill_process_group(group, signal);
        }
    }
}

impl Worker {
    pub(super) fn new(program: &'static str, package: &'static str, place: &Place<'_>) -> Self {
        use std::os::unix::process::CommandExt as _;
        let mut command = Command::new(program);
        command
            .current_dir(place.directory)
            .env_clear()
            .envs(ENVIRONMENT.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
            .env("LC_ALL", "C.UTF-8")
            .env("TMPDIR", place.scratch)
            .env("SOURCE_DATE_EPOCH", place.epoch.to_string())
            .env("PATH", path_with_sbin())
            .stderr(Stdio::piped())
            .process_group(0);
        Self { command, program, package, running: None }
    }

    pub(super) fn start(&mut self) -> Result<(), ImageError> {
        let child = self.command.spawn().map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                ImageError::NoProgram { program: self.program.to_owned(), package: self.package }
            }
            _ => ImageError::io("run", self.program.as_ref())(error),
        })?;
        self.running = Some(Running { child, ended: false });
        Ok(())
    }

    /// Its standard input and output, which were said to be pipes.
    ///
    /// # Panics
    /// When it was not started so: a mistake in the program.
    #[allow(clippy::expect_used, reason = "both were asked for where this is called")]
    pub(super) fn pipes(&mut self) -> (ChildStdin, ChildStdout) {
        let child = &mut self.running.as_mut().expect("it was started").child;
        (child.stdin.take().expect("a pipe"), child.stdout.take().expect("a pipe"))
    }
}

/// Starts it if it does not run, tells mmdebstrap's steps (`I: …`), and waits for its end.
pub(super) async fn finished(
    step: &'static str,
    mut worker: Worker,
    progress: &Progress,
) -> Result<(), ImageError> {
    if worker.running.is_none() {
        worker.start()?;
    }
    let Some(running) = &mut worker.running else { return Ok(()) };
    let mut said = VecDeque::new();
    if let Some(errors) = running.child.stderr.take() {
        let errors = tokio::process::ChildStderr::from_std(errors);
        let errors = errors.map_err(ImageError::io("listen to", worker.program.as_ref()))?;
        let mut lines = BufReader::new(errors).split(b'\n');
        while let Ok(Some(line)) = lines.next_segment().await {
            let line = printable(&line);
            if line.is_empty() {
                continue;
            }
            if let Some(step) =
                line.strip_prefix("I: ").filter(|step| !step.starts_with("running "))
            {
                say(progress, step);
            }
            if said.len() == KEPT_LINES {
                said.pop_front();
            }
            said.push_back(line);
        }
    }
    let status =
        ended(running).await.map_err(ImageError::io("wait for", worker.program.as_ref()))?;
    if status.success() {
        return Ok(());
    }
    let said = Vec::from(said).join(" | ");
    Err(ImageError::Step { step, how: status.to_string(), said })
}

async fn ended(running: &mut Running) -> std::io::Result<ExitStatus> {
    loop {
        if let Some(status) = running.child.try_wait()? {
            running.ended = true;
            return Ok(status);
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The last state of a line: programs write over what they have written with a carriage return.
fn printable(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let text = text.trim_end_matches('\r');
    let last = text.rsplit('\r').next().unwrap_or(text);
    last.chars().filter(|c| !c.is_control()).take(400).collect::<String>().trim_end().to_owned()
}

/// Ordinary users have no sbin in their path, where mke2fs and debugfs are.
fn path_with_sbin() -> String {
    let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/bin:/bin".to_owned());
    format!("{path}:/usr/local/sbin:/usr/sbin:/sbin")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn what_the_owner_s_shell_has_set_is_not_seen() {
        let scratch = tempfile::tempdir().unwrap();
        let place = Place { directory: scratch.path(), scratch: scratch.path(), epoch: 5 };
        let (progress, _lines) = tokio::sync::mpsc::channel(1);
        // Cargo sets it for tests.
        assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
        for (script, succeeds) in [
            ("[ -z \"${CARGO_MANIFEST_DIR+set}\" ]", true),
            ("[ \"$SOURCE_DATE_EPOCH\" = 5 ]", true),
            ("[ -n \"${CARGO_MANIFEST_DIR+set}\" ]", false),
        ] {
            let mut worker = Worker::new("sh", "dash", &place);
            worker.command.args(["-c", script]);
            let done = finished("looking", worker, &progress).await;
            assert_eq!(done.is_ok(), succeeds, "{script}: {done:?}");
        }
    }
}
