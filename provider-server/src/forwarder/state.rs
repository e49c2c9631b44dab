//! What the forwarder remembers over its own death: the offered ports and the routes.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::wire::{self, Request, Route};

/// The file's name in the data directory.
pub const STATE_NAME: &str = "forwarder.json";

/// The version of the file's format.
const FORMAT: u32 = 1;

/// What is remembered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    format: u32,
    /// The address to listen on; none before the first offer.
    #[serde(default)]
    pub(super) listen_ip: Option<IpAddr>,
    /// The offered ports.
    #[serde(default)]
    pub(super) offered: BTreeSet<u16>,
    /// The routes.
    #[serde(default)]
    pub(super) routes: Vec<Route>,
    /// The ports that this forwarder has added to the system's reserved ones, so that a successor
    /// knows what to take out again.
    #[serde(default)]
    pub(super) reserved: BTreeSet<u16>,
}

impl State {
    /// What is to be remembered.
    pub(super) fn new(
        listen_ip: Option<IpAddr>,
        offered: BTreeSet<u16>,
        routes: Vec<Route>,
        reserved: BTreeSet<u16>,
    ) -> Self {
        Self { format: FORMAT, listen_ip, offered, routes, reserved }
    }
}

/// The file that holds the state.
#[derive(Debug, Clone)]
pub(super) struct StateFile {
    directory: PathBuf,
}

impl StateFile {
    /// The file in a data directory.
    pub(super) fn new(data_dir: &Path) -> Self {
        Self { directory: data_dir.to_owned() }
    }

    fn path(&self) -> PathBuf {
        self.directory.join(STATE_NAME)
    }

    /// What was stored last. A file that can't be understood is put aside, as the provider sends
    /// the whole table again in any case and its VMs' ports must not wait for a person.
    ///
    /// # Errors
    /// When the file is there and can't be read.
    pub(super) fn load(&self) -> io::Result<State> {
        let bytes = match fs::read(self.path()) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(State::default()),
            Err(error) => return Err(error),
        };
        match parse(&bytes) {
            Ok(state) => Ok(state),
            Err(why) => {
                let aside = self.directory.join("forwarder.json.unreadable");
                fs::rename(self.path(), &aside)?;
                tracing::error!(
                    file = %self.path().display(),
                    kept_as = %aside.display(),
                    "the stored routes can't be understood ({why}); starting with none, the provider will send them"
                );
                Ok(State::default())
            }
        }
    }

    /// Stores a state, whole or not at all, also if the power fails.
    ///
    /// # Errors
    /// When the disk is full or the directory not writable.
    pub(super) fn store(&self, state: &State) -> io::Result<()> {
        let bytes = serde_json::to_vec(state).map_err(io::Error::other)?;
        let temporary = self.directory.join("forwarder.json.new");
        // A left-over of a crash would keep its own mode.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, self.path())?;
        File::open(&self.directory)?.sync_all()
    }
}

pub(super) fn parse(bytes: &[u8]) -> Result<State, String> {
    let state: State = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if state.format != FORMAT {
        return Err(format!("format {} instead of {FORMAT}", state.format));
    }
    // The same rules as for what comes over the socket.
    let routes = Request::Routes { routes: state.routes.clone(), close_removed: false };
    wire::validate(&routes).map_err(|refusal| refusal.message)?;
    if let Some(listen_ip) = state.listen_ip {
        let offer = Request::Offer { listen_ip, ports: state.offered.clone() };
        wire::validate(&offer).map_err(|refusal| refusal.message)?;
    }
    Ok(state)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn example() -> State {
        State::new(
            Some("127.0.0.1".parse().unwrap()),
            BTreeSet::from([50800, 50801]),
            vec![Route {
                port: 50800,
                target: "172.17.0.2:22".parse().unwrap(),
                vm: "vm_a".to_owned(),
            }],
            BTreeSet::from([50801]),
        )
    }

    #[test]
    fn what_is_stored_is_loaded() {
        let directory = tempfile::tempdir().unwrap();
        let file = StateFile::new(directory.path());
        assert_eq!(file.load().unwrap(), State::default());
        file.store(&example()).unwrap();
        file.store(&example()).unwrap();
        assert_eq!(file.load().unwrap(), example());
        let mode = fs::metadata(file.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn damaged_and_newer_files_are_put_aside() {
        let directory = tempfile::tempdir().unwrap();
        let file = StateFile::new(directory.path());
        for text in [
            "",
            "{",
            "[]",
            r#"{"format":2}"#,
            r#"{"format":1,"routes":[{"port":0,"target":"1.2.3.4:5","vm":"a"}]}"#,
        ] {
            fs::write(file.path(), text).unwrap();
            assert_eq!(file.load().unwrap(), State::default(), "{text}");
            assert!(!file.path().exists(), "{text}");
            assert_eq!(
                fs::read_to_string(directory.path().join("forwarder.json.unreadable")).unwrap(),
                text
            );
        }
    }
}
