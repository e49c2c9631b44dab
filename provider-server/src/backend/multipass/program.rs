//! Runs the program `multipass`: the only thing of Multipass that is used.
//!
//! Every call has a deadline, and its process is ended with it, whatever it is at: a client can hang for ever
//! behind a daemon that waits for a guest. What the daemon was told to do goes on; whoever calls finds out by
//! looking.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use super::said::{self, Trouble};
use crate::backend::BackendError;

/// Where it is when it is not on the PATH of a service.
const ELSEWHERE: [&str; 4] = [
    "/snap/bin/multipass",
    "/var/lib/snapd/snap/bin/multipass",
    "/usr/local/bin/multipass",
    "/Library/Application Support/com.canonical.multipass/bin/multipass",
];

/// Most bytes that are kept of each of its outputs: the spinner alone writes 200 bytes a second. The list of a
/// thousand instances is a fifth of it.
const MOST_OUTPUT: usize = 1 << 20;

/// How it came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Said {
    /// Its exit code; `None` when a signal ended it.
    pub(super) code: Option<i32>,
    /// Its standard output, as far as it is text.
    pub(super) stdout: String,
    /// Its standard error, as far as it is text.
    pub(super) stderr: String,
}

/// Why a call came to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum CallError {
    /// There is no such program.
    Missing,
    /// It can't be started.
    Unstartable(String),
    /// It was ended at its deadline; what it asked for may still be done.
    Late { command: String, after: Duration },
    /// It ended with an error.
    Refused { trouble: Trouble, code: Option<i32>, message: String },
    /// It said something that can't be understood.
    Unreadable(String),
}

impl CallError {
    /// What is wrong, as far as it is told apart.
    pub(super) const fn trouble(&self) -> Option<Trouble> {
        match self {
            Self::Refused { trouble, .. } => Some(*trouble),
            _ => None,
        }
    }

    /// Whether Multipass could not be asked: this says nothing about any instance.
    pub(super) fn is_away(&self) -> bool {
        match self {
            Self::Refused { trouble, .. } => trouble.is_away(),
            _ => true,
        }
    }

    /// As whoever asked a backend is told.
    pub(super) fn into_backend(self, what: &str) -> BackendError {
        let text = format!("{what}: {self}");
        if self.is_away() { BackendError::Unavailable(text) } else { BackendError::Failed(text) }
    }
}

impl std::fmt::Display for CallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Missing => f.write_str(
                "the program multipass is not there: install it ('sudo snap install multipass' on Linux, \
                 'brew install --cask multipass' on macOS)",
            ),
            Self::Unstartable(reason) => write!(f, "the program multipass can't be started: {reason}"),
            Self::Late { command, after } => {
                write!(f, "'multipass {command}' did not end within {} s", after.as_secs())
            }
            Self::Refused { trouble, message, .. } => match trouble.remedy() {
                Some(remedy) => write!(f, "multipass says: {message}. {remedy}"),
                None => write!(f, "multipass says: {message}"),
            },
            Self::Unreadable(reason) => write!(f, "what multipass says is not understood: {reason}"),
        }
    }
}

/// The program.
#[derive(Debug, Clone, Default)]
pub(super) struct Program {
    /// Where it is, if not where it is looked for.
    path: Option<PathBuf>,
    environment: Vec<(OsString, OsString)>,
}

impl Program {
    /// The one at `path`, with these variables besides its own.
    pub(super) fn at(path: &Path, environment: &[(&str, &str)]) -> Self {
        let environment =
            environment.iter().map(|(name, value)| (name.into(), value.into())).collect();
        Self { path: Some(path.to_owned()), environment }
    }

    fn find(&self) -> Option<PathBuf> {
        if let Some(path) = &self.path {
            return Some(path.clone());
        }
        let on_path = std::env::var_os("PATH").and_then(|path| {
            let all = std::env::split_paths(&path).map(|folder| folder.join("multipass"));
            all.into_iter().find(|file| file.is_file())
        });
        on_path.or_else(|| ELSEWHERE.iter().map(PathBuf::from).find(|file| file.is_file()))
    }

    /// Runs it with these arguments to its end.
    pub(super) async fn run(
        &self,
        arguments: &[&str],
        input: &[u8],
        deadline: Duration,
    ) -> Result<Said, CallError> {
        let program = self.find().ok_or(CallError::Missing)?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .env("LC_ALL", "C")
            // The confined program of a snap can't be where it may not read.
            .current_dir("/")
            .stdin(if input.is_empty() { Stdio::null() } else { Stdio::piped() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(CallError::Missing);
            }
            Err(error) => return Err(CallError::Unstartable(error.to_string())),
        };
        // Ended with everything that it has started, also when nobody waits for this call any more.
        let mut group = Group(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)));
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let feed = async {
            if let Some(mut stdin) = stdin {
                // One that ends early says why.
                let _ = stdin.write_all(input).await;
                let _ = stdin.shutdown().await;
            }
        };
        let whole = async {
            let ((), stdout, stderr) = tokio::join!(feed, read(stdout), read(stderr));
            (child.wait().await, stdout, stderr)
        };
        let ended = tokio::time::timeout(deadline, whole).await;
        let Ok((status, stdout, stderr)) = ended else {
            let command = arguments.first().copied().unwrap_or_default().to_owned();
            return Err(CallError::Late { command, after: deadline });
        };
        group.has_ended();
        let status = status.map_err(|error| CallError::Unstartable(error.to_string()))?;
        Ok(Said { code: status.code(), stdout, stderr })
    }

    /// The same, of a call that has to succeed; its standard output.
    pub(super) async fn call(
        &self,
        arguments: &[&str],
        input: &[u8],
        deadline: Duration,
    ) -> Result<String, CallError> {
        let said = self.run(arguments, input, deadline).await?;
        match said.code {
            Some(0) => Ok(said.stdout),
            code => {
                let (trouble, message) = said::understood(&said);
                Err(CallError::Refused { trouble, code, message })
            }
        }
    }
}

/// A process group that is killed when nobody waits for it any more.
#[derive(Debug)]
struct Group(Option<Pid>);

impl Group {
    /// Its leader was waited for: the number may be another's from now on.
    const fn has_ended(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The leader has not been waited for, so its number is still its own.
        if let Some(group) = self.0 {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// All that comes, of which only the beginning is kept.
async fn read(stream: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut stream) = stream else { return String::new() };
    let mut kept = Vec::new();
    let mut buffer = vec![0; 16 << 10];
    while let Ok(length) = stream.read(&mut buffer).await
        && length > 0
    {
        let room = MOST_OUTPUT.saturating_sub(kept.len()).min(length);
        kept.extend_from_slice(&buffer[..room]);
    }
    String::from_utf8_lossy(&kept).into_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Instant;

    use super::*;

    fn shell() -> Program {
        Program::at(Path::new("/bin/sh"), &[("X_OF_TEST", "seen")])
    }

    const SOON: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn arguments_are_not_for_a_shell_and_what_is_said_is_kept_apart() {
        let script = "cat; printf '%s|' \"$1\" \"$LC_ALL\" \"$X_OF_TEST\"; echo oh >&2; exit 7";
        let said = shell().run(&["-c", script, "sh", "a $HOME 'b'"], b"in ", SOON).await.unwrap();
        assert_eq!((said.code, said.stdout.as_str()), (Some(7), "in a $HOME 'b'|C|seen|"));
        assert_eq!(said.stderr, "oh\n");
    }

    #[tokio::test]
    async fn output_without_end_takes_bounded_memory_and_need_not_be_text() {
        let script = "head -c 3000000 /dev/zero | tr '\\0' '\\377'; printf end >&2";
        let said = shell().run(&["-c", script], b"", SOON).await.unwrap();
        assert_eq!(said.stdout.chars().count(), MOST_OUTPUT, "one character for each wrong byte");
        assert_eq!(said.stderr, "end");
    }

    /// Whether a process of that number lives; one that nobody has waited for yet does not.
    fn lives(pid: &str) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.lines().any(|line| line.starts_with("State:") && !line.contains('Z'))
    }

    #[tokio::test]
    async fn at_its_deadline_it_is_ended_with_all_that_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        let script = format!("sleep 1000 & echo $! >{}.new; mv {0}.new {0}; wait", file.display());
        let began = Instant::now();
        let late = shell().run(&["-c", &script], b"", Duration::from_secs(3)).await;
        assert!(matches!(late, Err(CallError::Late { .. })), "{late:?}");
        assert!(began.elapsed() < SOON);
        let pid = std::fs::read_to_string(&file).unwrap();
        while lives(pid.trim()) {
            assert!(began.elapsed() < SOON, "what it started lives on");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    #[tokio::test]
    async fn what_is_not_installed_is_told() {
        let none = Program::at(Path::new("/nonexistent/multipass"), &[]);
        let error = none.call(&["list"], b"", SOON).await.unwrap_err();
        assert_eq!(error, CallError::Missing);
        let error = error.into_backend("can't list");
        assert!(error.is_unavailable() && error.to_string().contains("install"), "{error}");
    }
}
