//! `qemu-img`, under limits.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use super::error::DiskError;

/// How much of what it says is kept, in bytes.
const MOST_SAID: usize = 400;

/// What one call may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Address space in bytes.
    memory: u64,
    /// CPU time in seconds.
    cpu_seconds: u64,
    /// Wall time.
    wall: Duration,
}

impl Bounds {
    /// What only looks at tables, or changes them. An ordinary one takes 20 ms and 30 MiB.
    pub(super) const SHORT: Self =
        Self { memory: 1 << 30, cpu_seconds: 10, wall: Duration::from_secs(60) };
    /// What goes through all the content.
    pub(super) const LONG: Self =
        Self { memory: 2 << 30, cpu_seconds: 1800, wall: Duration::from_secs(3600) };
}

/// Calls `qemu-img`. Cheap to clone.
#[derive(Debug, Clone)]
pub struct DiskTool {
    program: OsString,
}

impl Default for DiskTool {
    fn default() -> Self {
        Self { program: "qemu-img".into() }
    }
}

impl DiskTool {
    /// The one at this path, in place of the `qemu-img` that is found by `PATH`.
    #[must_use]
    pub fn at(program: &Path) -> Self {
        Self { program: program.into() }
    }

    /// Its version (`qemu-img version 7.2.22 (Debian …)`).
    ///
    /// # Errors
    /// [`DiskError::NoProgram`], or what went wrong.
    pub async fn version(&self) -> Result<String, DiskError> {
        let said = self.run("tell its version to", Path::new("this program"), Bounds::SHORT, |c| {
            c.arg("--version");
        });
        let said = said.await?;
        Ok(said.lines().next().unwrap_or_default().to_owned())
    }

    /// Runs it with the arguments that `add` adds, to do `what` with `path`, and returns what it wrote.
    /// Dropped, it ends.
    pub(super) async fn run(
        &self,
        what: &'static str,
        path: &Path,
        bounds: Bounds,
        add: impl FnOnce(&mut Command),
    ) -> Result<String, DiskError> {
        let mut command = Command::new("prlimit");
        command
            .arg(format!("--as={}", bounds.memory))
            .arg(format!("--cpu={}", bounds.cpu_seconds))
            .arg("--core=0")
            .arg("--")
            .arg(&self.program)
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        add(&mut command);
        let missing = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                DiskError::NoProgram("prlimit".to_owned(), "util-linux")
            }
            _ => DiskError::io("run prlimit for", path)(error),
        };
        let Ok(output) = timeout(bounds.wall, command.output()).await else {
            return Err(DiskError::TooSlow { what, path: path.to_owned(), after: bounds.wall });
        };
        let output = output.map_err(missing)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        // prlimit's own status for a program that is not there.
        if output.status.code() == Some(127) || is_missing(&output.stderr) {
            let program = self.program.to_string_lossy().into_owned();
            return Err(DiskError::NoProgram(program, "qemu-utils"));
        }
        let said = end_of(&output.stderr);
        let said = if said.is_empty() { output.status.to_string() } else { said };
        Err(DiskError::Tool { what, path: path.to_owned(), said })
    }
}

fn is_missing(said: &[u8]) -> bool {
    let said = String::from_utf8_lossy(said);
    said.starts_with("prlimit: ") && said.contains("No such file or directory")
}

/// The end of what a program said, as one printable line.
fn end_of(said: &[u8]) -> String {
    let text = String::from_utf8_lossy(said);
    let line: String = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let start = line.char_indices().rev().take(MOST_SAID).last().map_or(0, |(at, _)| at);
    line[start..].to_owned()
}

/// A path as a value inside `driver=…,file.filename=…`: a comma is written twice.
pub(super) fn option_value(path: &Path) -> OsString {
    use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
    let mut written = Vec::new();
    for byte in path.as_os_str().as_bytes() {
        written.push(*byte);
        if *byte == b',' {
            written.push(b',');
        }
    }
    OsString::from_vec(written)
}

/// `--image-opts` for a file that is read as qcow2, from a file, whatever its content or name would suggest.
pub(super) fn as_qcow2(path: &Path) -> OsString {
    let mut options = OsString::from("driver=qcow2,file.driver=file,file.filename=");
    options.push::<&OsStr>(&option_value(path));
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comma_in_a_path_starts_no_option() {
        let options = as_qcow2(Path::new("/a,backing.driver=raw"));
        let options = options.to_string_lossy();
        assert!(options.ends_with("filename=/a,,backing.driver=raw"), "{options}");
    }

    #[test]
    fn what_is_shown_is_one_short_line() {
        assert_eq!(end_of(b"one\ntwo\x1b[31m\n"), "one two [31m");
        assert_eq!(end_of("ä".repeat(5000).as_bytes()).chars().count(), MOST_SAID);
    }
}
