//! What is written down of each VM's instance: under which name it was launched last, which names were given up,
//! and what Multipass itself does not tell. One small file per VM in the provider's directory, written before
//! what it says is done.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use golem_vm_protocol::VmId;
use golem_vm_protocol::vm::SshPublicKey;
use serde::{Deserialize, Serialize};

use crate::backend::{Limits, kept_file};
use crate::containment::{Guest, Mac};

/// How long after it was begun a launch that was given up may still lead to an instance: a download is not
/// cut short by its client's end in every case, and the catalogue's images are large.
const MAY_APPEAR: Duration = Duration::from_secs(6 * 3600);

/// One attempt to launch an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Attempt {
    /// The instance's name.
    pub(super) name: String,
    /// When it was begun, in seconds since 1970.
    pub(super) begun_at: u64,
    /// Whether it came up with the VM's own host key: from then on it holds somebody's data.
    pub(super) came_up: bool,
}

impl Attempt {
    pub(super) fn begun_now(name: String) -> Self {
        Self { name, begun_at: now(), came_up: false }
    }

    /// How long ago it was begun; nothing when the clock was set back since.
    pub(super) fn age(&self) -> Duration {
        Duration::from_secs(now().saturating_sub(self.begun_at))
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// What makes a clone another machine than its source; given to it when it first runs.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    /// The host name inside.
    pub(super) hostname: String,
    /// The host key, private half, in OpenSSH's PEM form.
    pub(super) host_key_private: String,
    /// Its public half.
    pub(super) host_key: SshPublicKey,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("hostname", &self.hostname).finish_non_exhaustive()
    }
}

/// What is written down of one VM.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Book {
    /// The attempt that counts.
    pub(super) current: Option<Attempt>,
    /// Attempts that were given up, and may still appear.
    pub(super) abandoned: Vec<Attempt>,
    /// Where it was last reached.
    pub(super) address: Option<Ipv4Addr>,
    /// Its network card's address, once it was seen.
    pub(super) mac: Option<String>,
    /// The keys that may log in, while the guest does not have them yet.
    pub(super) keys: Option<Vec<SshPublicKey>>,
    /// The keys that may log in.
    pub(super) granted: Option<Vec<SshPublicKey>>,
    /// Who a clone is, while it does not know.
    pub(super) identity: Option<Identity>,
    /// How much it may use.
    pub(super) limits: Option<Limits>,
    /// Whether Multipass was told so.
    pub(super) limits_are_set: bool,
    /// When snapshots were made, in seconds since 1970.
    pub(super) snapshots: BTreeMap<String, u64>,
    /// Whether it was we who suspended it.
    pub(super) suspended: bool,
    /// Seconds since 1970 of the last start.
    pub(super) started_at: u64,
}

impl Book {
    /// Gives the current attempt up. Its instance is removed whenever it is seen.
    pub(super) fn abandon(&mut self) {
        self.abandoned.extend(self.current.take());
        *self = Self { abandoned: std::mem::take(&mut self.abandoned), ..Self::default() };
    }

    /// Whether an instance of that name was given up.
    pub(super) fn has_abandoned(&self, name: &str) -> bool {
        self.abandoned.iter().any(|attempt| attempt.name == name)
    }

    /// Whether the current attempt's instance has this name.
    pub(super) fn is_current(&self, name: &str) -> bool {
        self.current.as_ref().is_some_and(|attempt| attempt.name == name)
    }

    pub(super) fn has_just_started(&mut self) {
        self.started_at = now();
        self.suspended = false;
    }

    /// How long ago it was last started.
    pub(super) fn up_for(&self) -> Duration {
        Duration::from_secs(now().saturating_sub(self.started_at))
    }

    /// Its end of the network, as far as it is known.
    pub(super) fn guest(&self) -> Option<Guest> {
        let mac: Mac = self.mac.as_ref()?.parse().ok()?;
        Some(Guest { address: self.address?, mac })
    }

    fn is_empty(&self) -> bool {
        self.current.is_none() && self.abandoned.is_empty()
    }

    fn forget_old(&mut self) {
        self.abandoned.retain(|attempt| attempt.age() < MAY_APPEAR);
    }
}

/// All of them.
#[derive(Debug)]
pub(super) struct Books {
    directory: PathBuf,
    all: Mutex<BTreeMap<VmId, Book>>,
}

impl Books {
    /// Those that are kept in this directory, which is made when the first is written. A file that can't be read
    /// is left out: what its instance is called is seen in Multipass's own list.
    ///
    /// # Errors
    /// When the directory is there and can't be read.
    pub(super) fn in_directory(directory: &Path) -> io::Result<Self> {
        let mut all = BTreeMap::new();
        match std::fs::read_dir(directory) {
            Ok(entries) => {
                for entry in entries {
                    let path = entry?.path();
                    let vm = path.file_stem().and_then(|stem| stem.to_str()?.parse::<VmId>().ok());
                    let is_ours = path.extension().is_some_and(|end| end == "json");
                    let Some(vm) = vm.filter(|_| is_ours) else { continue };
                    match kept_file::read::<Book>(&path) {
                        Some(mut book) => {
                            book.forget_old();
                            all.insert(vm, book);
                        }
                        None => tracing::warn!("{} can't be read", path.display()),
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(Self { directory: directory.to_owned(), all: Mutex::new(all) })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<VmId, Book>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is written down of a VM; empty when nothing is.
    pub(super) fn of(&self, vm: VmId) -> Book {
        self.lock().get(&vm).cloned().unwrap_or_default()
    }

    /// All that is written down.
    pub(super) fn all(&self) -> BTreeMap<VmId, Book> {
        self.lock().clone()
    }

    /// Changes what is written down of a VM, on the disk before in memory. Nothing is left of an empty book.
    ///
    /// # Errors
    /// When it can't be written; then nothing has changed.
    pub(super) fn change(&self, vm: VmId, change: impl FnOnce(&mut Book)) -> io::Result<Book> {
        let mut all = self.lock();
        let before = all.get(&vm).cloned().unwrap_or_default();
        let mut book = before.clone();
        change(&mut book);
        book.forget_old();
        let path = self.directory.join(format!("{vm}.json"));
        if book.is_empty() {
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            all.remove(&vm);
        } else if book != before {
            make_directory(&self.directory)?;
            kept_file::write(&path, &book)?;
            all.insert(vm, book.clone());
        }
        Ok(book)
    }
}

/// For this user alone: the books name keys.
pub(super) fn make_directory(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const VM: VmId = VmId::from_bytes([5; 16]);

    #[test]
    fn what_is_written_down_is_there_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("multipass");
        let books = Books::in_directory(&path).unwrap();
        assert_eq!(books.of(VM), Book::default());
        let written = books.change(VM, |book| {
            book.current = Some(Attempt::begun_now("one".to_owned()));
            book.address = Some(Ipv4Addr::new(10, 1, 2, 3));
            book.mac = Some("52:54:00:12:34:56".to_owned());
        });
        let written = written.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(Books::in_directory(&path).unwrap().of(VM), written);
        assert_eq!(written.guest().unwrap().to_string(), "10.1.2.3 . 52:54:00:12:34:56");

        let given_up = books.change(VM, Book::abandon).unwrap();
        assert!(given_up.has_abandoned("one") && given_up.current.is_none());
        assert_eq!(given_up.guest(), None);
        assert!(Books::in_directory(&path).unwrap().of(VM).has_abandoned("one"));

        books.change(VM, |book| book.abandoned.clear()).unwrap();
        assert_eq!(std::fs::read_dir(&path).unwrap().count(), 0, "nothing is left of it");
    }

    #[test]
    fn what_was_given_up_long_ago_does_not_appear_any_more() {
        let folder = tempfile::tempdir().unwrap();
        let books = Books::in_directory(folder.path()).unwrap();
        let old = Attempt { name: "old".to_owned(), begun_at: 1000, came_up: false };
        let book = books.change(VM, |book| {
            book.abandoned = vec![old, Attempt::begun_now("new".to_owned())];
        });
        let book = book.unwrap();
        assert!(book.has_abandoned("new") && !book.has_abandoned("old"));
    }

    #[test]
    fn a_damaged_file_is_left_out_and_others_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let books = Books::in_directory(folder.path()).unwrap();
        books.change(VM, |book| book.current = Some(Attempt::begun_now("one".into()))).unwrap();
        let other = VmId::from_bytes([6; 16]);
        std::fs::write(folder.path().join(format!("{other}.json")), "{\"current\":").unwrap();
        std::fs::write(folder.path().join("images.json"), "{}").unwrap();
        let read = Books::in_directory(folder.path()).unwrap();
        assert_eq!(read.all().into_keys().collect::<Vec<_>>(), [VM]);
    }
}
