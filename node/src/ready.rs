//! `--ready-fd N`: telling whoever started a service where it listens.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::net::SocketAddr;

use golem_vm_protocol::KeyId;
use serde::Serialize;
use serde_json::{Map, Value};

/// What every service announces, on one line:
/// `{"service":"port-checker","id":"…","http":"127.0.0.1:9000"}`, and what else it has to say.
#[derive(Debug, Clone, Serialize)]
pub struct Ready {
    /// The service's name: `provider`, `discovery`, `port-checker`.
    pub service: &'static str,
    /// Its id.
    pub id: KeyId,
    /// Where its HTTP listener is bound.
    pub http: SocketAddr,
    /// Other members.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

impl Ready {
    /// What a service with one listener announces.
    #[must_use]
    pub fn new(service: &'static str, id: KeyId, http: SocketAddr) -> Self {
        Self { service, id, http, more: Map::new() }
    }
}

/// Why the message could not be given.
#[derive(Debug, thiserror::Error)]
#[error(
    "--ready-fd {fd}: can't write to that file descriptor ({source}); pass one that is open for writing, such as --ready-fd 3 with 3>ready.json"
)]
pub struct ReadyError {
    fd: u32,
    source: std::io::Error,
}

/// Writes `message` as one line of JSON to the file descriptor `fd` that this process inherited: a
/// pipe or a file. The descriptor is opened anew by its name under `/dev/fd` and that one is
/// closed; the inherited one stays open until the process ends, so a reader reads one line and
/// does not wait for the end.
///
/// # Errors
/// [`ReadyError`] when `fd` is not open for writing.
pub fn announce(fd: u32, message: &impl Serialize) -> Result<(), ReadyError> {
    let error = |source| ReadyError { fd, source };
    let mut line = serde_json::to_vec(message).map_err(|e| error(e.into()))?;
    line.push(b'\n');
    let mut file = OpenOptions::new().append(true).open(format!("/dev/fd/{fd}")).map_err(error)?;
    // One write: lines of this size are not split in a pipe.
    file.write_all(&line).map_err(error)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::fd::AsRawFd as _;

    use super::*;

    #[test]
    fn one_line_arrives() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ready");
        let file = std::fs::File::create(&path).unwrap();
        let fd = u32::try_from(file.as_raw_fd()).unwrap();
        announce(fd, &serde_json::json!({"address": "127.0.0.1:9000"})).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"address\":\"127.0.0.1:9000\"}\n");
    }

    #[test]
    fn a_descriptor_that_is_not_open_is_named() {
        let error = announce(9999, &1).unwrap_err().to_string();
        assert!(error.starts_with("--ready-fd 9999:"), "{error}");
    }
}
