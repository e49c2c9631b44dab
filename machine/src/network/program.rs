//! Programs of the system: found, run with a deadline, and what they say when they fail.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// Where they are when they are not on the PATH of a service or of an ordinary user.
const ELSEWHERE: [&str; 5] = ["/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin", "/bin"];
/// Longest of their messages that is passed on, in characters.
const MESSAGE_CHARS: usize = 300;

/// Why a program did not do what it was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// It is not installed.
    Missing,
    /// It can't be run, or was not done in time.
    NotRun(String),
    /// It ended, and said this.
    Said(String),
}

/// Where a program is, if it is installed.
pub(super) fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(ELSEWHERE.iter().map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// The PATH on which programs are found that run others.
pub(super) fn path() -> OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(ELSEWHERE.iter().map(PathBuf::from));
    std::env::join_paths(folders).unwrap_or(path)
}

/// Runs a program to its end, with that input, and returns its output.
pub(super) async fn run<A: AsRef<OsStr>>(
    name: &str,
    arguments: impl IntoIterator<Item = A>,
    input: &str,
    deadline: Duration,
) -> Result<String, Failure> {
    let program = find(name).ok_or(Failure::Missing)?;
    let spawned = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .env("PATH", path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Failure::Missing),
        Err(error) => return Err(Failure::NotRun(format!("it can't be started: {error}"))),
    };
    let stdin = child.stdin.take();
    let done = async {
        if let Some(mut stdin) = stdin {
            // One that ends early says why.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        child.wait_with_output().await
    };
    let output = match tokio::time::timeout(deadline, done).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(Failure::NotRun(error.to_string())),
        Err(_) => return Err(Failure::NotRun(format!("nothing within {} s", deadline.as_secs()))),
    };
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    if said.trim().is_empty() {
        return Err(Failure::Said(format!("it ended with {}", output.status)));
    }
    Err(Failure::Said(said.into_owned()))
}

/// A message in one line that no terminal obeys, and not longer than anybody reads.
pub(super) fn in_one_line(said: &str) -> String {
    let line = said.split_whitespace().collect::<Vec<_>>().join(" ");
    let printable = line.chars().map(|one| {
        // What `Debug` would escape, but for quotes.
        let shown = matches!(one, '"' | '\'' | '\\') || one.escape_debug().count() == 1;
        if shown { one } else { '\u{fffd}' }
    });
    printable.take(MESSAGE_CHARS).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn what_a_program_says_comes_back() {
        assert_eq!(run("cat", [""; 0], "x\ny", LONG).await.unwrap(), "x\ny");
        let failed = run("sh", ["-c", "echo no >&2; exit 3"], "", LONG).await;
        assert_eq!(failed, Err(Failure::Said("no\n".to_owned())));
        let silent = run("false", [""; 0], "", LONG).await;
        assert_eq!(silent, Err(Failure::Said("it ended with exit status: 1".to_owned())));
        assert_eq!(run("golem-no-such-program", [""; 0], "", LONG).await, Err(Failure::Missing));
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_ended() {
        let late = run("sleep", ["1000"], "", Duration::from_millis(10)).await;
        assert_eq!(late, Err(Failure::NotRun("nothing within 0 s".to_owned())));
    }

    #[test]
    fn messages_are_one_line_that_can_be_shown() {
        assert_eq!(
            in_one_line("Error: it's\n \u{1b}[31m \u{202e}x"),
            "Error: it's \u{fffd}[31m \u{fffd}x"
        );
        assert_eq!(in_one_line(&"x".repeat(1000)).len(), MESSAGE_CHARS);
    }
}
