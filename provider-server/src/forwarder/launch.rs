//! Finds the forwarder's binary and starts it, so that it outlives whoever starts it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::{Child, Command};

use super::client::ClientError;

/// The program's name.
pub const BINARY_NAME: &str = "golem-forwarder";

/// A log that is longer than this many bytes is put aside at the next start.
const LONG_LOG: u64 = 8 * 1024 * 1024;

/// How much of the end of the log is looked at when a start fails, in bytes.
const LOG_TAIL: u64 = 600;

/// Finds the forwarder's binary: the configured one, else the one beside the running program,
/// else the first in `PATH`.
///
/// # Errors
/// [`ClientError::NoBinary`], which names what was tried and says what to do.
pub fn find_binary(configured: Option<&Path>) -> Result<PathBuf, ClientError> {
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join(BINARY_NAME)));
    let path = std::env::var_os("PATH").unwrap_or_default();
    find_among(configured, beside, &std::env::split_paths(&path).collect::<Vec<_>>())
}

fn find_among(
    configured: Option<&Path>,
    beside: Option<PathBuf>,
    path: &[PathBuf],
) -> Result<PathBuf, ClientError> {
    if let Some(configured) = configured {
        // A setting that is wrong is said, and not silently replaced by something else.
        return if is_program(configured) {
            Ok(configured.to_owned())
        } else {
            Err(ClientError::NoBinary {
                tried: format!("{} (as configured)", configured.display()),
            })
        };
    }
    let in_path = path.iter().filter(|directory| directory.is_absolute());
    if let Some(found) = beside
        .iter()
        .cloned()
        .chain(in_path.map(|directory| directory.join(BINARY_NAME)))
        .find(|candidate| is_program(candidate))
    {
        return Ok(found);
    }
    let beside = beside.map(|beside| format!("{} and ", beside.display())).unwrap_or_default();
    Err(ClientError::NoBinary { tried: format!("{beside}the directories of PATH") })
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Starts a forwarder that leaves this process's session at once, with its output in the log.
///
/// # Errors
/// When the log can't be opened or the binary not be started.
pub(super) fn spawn(
    binary: &Path,
    data_dir: &Path,
    log_path: &Path,
    extra_arguments: &[String],
) -> Result<Child, ClientError> {
    let log = open_log(log_path)
        .map_err(|source| ClientError::Log { path: log_path.to_owned(), source })?;
    let both =
        log.try_clone().map_err(|source| ClientError::Log { path: log_path.to_owned(), source })?;
    Command::new(binary)
        .arg("--data-dir")
        .arg(data_dir)
        .arg("--detach")
        .args(extra_arguments)
        // Keeps no directory of the caller busy.
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(both)
        .kill_on_drop(false)
        .spawn()
        .map_err(|source| ClientError::Start { binary: binary.to_owned(), source })
}

/// Waits for the child wherever it ends, so that it doesn't stay as a zombie.
pub(super) fn reap(mut child: Child) {
    tokio::spawn(async move {
        match child.wait().await {
            Ok(status) => tracing::warn!("golem-forwarder has ended: {status}"),
            Err(error) => tracing::warn!("can't tell how golem-forwarder ended: {error}"),
        }
    });
}

fn open_log(path: &Path) -> io::Result<File> {
    if fs::metadata(path).is_ok_and(|meta| meta.len() > LONG_LOG) {
        let mut old = path.as_os_str().to_owned();
        old.push(".1");
        fs::rename(path, old)?;
    }
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// The last line of the log, for an error message: a start that fails ends with the reason.
pub(super) fn log_tail(path: &Path) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL)))?;
        let mut bytes = Vec::new();
        file.take(LOG_TAIL).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let last = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it is empty");
    last.trim().chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn program(directory: &Path) -> PathBuf {
        fs::create_dir_all(directory).unwrap();
        let path = directory.join(BINARY_NAME);
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn the_binary_is_looked_for_in_order() {
        let root = tempfile::tempdir().unwrap();
        let configured = program(&root.path().join("configured"));
        let beside = program(&root.path().join("beside"));
        let in_path = program(&root.path().join("path"));
        let path = [root.path().join("none"), root.path().join("path")];
        assert_eq!(find_among(Some(&configured), Some(beside.clone()), &path).unwrap(), configured);
        assert_eq!(find_among(None, Some(beside.clone()), &path).unwrap(), beside);
        fs::remove_file(&beside).unwrap();
        assert_eq!(find_among(None, Some(beside.clone()), &path).unwrap(), in_path);
        // Not a program any more.
        fs::set_permissions(&in_path, fs::Permissions::from_mode(0o644)).unwrap();
        let error = find_among(None, Some(beside.clone()), &path).unwrap_err().to_string();
        assert!(error.contains(&beside.display().to_string()), "{error}");
        assert!(error.contains("cargo install"), "{error}");
        let wrong = root.path().join("wrong");
        let error = find_among(Some(&wrong), Some(beside), &path).unwrap_err().to_string();
        assert!(error.contains("as configured"), "{error}");
    }

    #[test]
    fn a_long_log_is_put_aside_and_its_end_can_be_shown() {
        let root = tempfile::tempdir().unwrap();
        let log = root.path().join("forwarder.log");
        let file = open_log(&log).unwrap();
        file.set_len(LONG_LOG + 1).unwrap();
        drop(file);
        open_log(&log).unwrap();
        assert_eq!(fs::metadata(&log).unwrap().len(), 0);
        assert!(root.path().join("forwarder.log.1").exists());
        fs::write(&log, format!("{}\nthe \u{1b}[31mend\n", "x".repeat(1000))).unwrap();
        let tail = log_tail(&log);
        assert_eq!(tail, "the [31mend");
        fs::write(&log, "").unwrap();
        assert_eq!(log_tail(&log), "it is empty");
    }
}
