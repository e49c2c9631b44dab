//! Keeps the kernel from giving the offered ports to outgoing connections of other programs.
//!
//! The range lies inside Linux's ephemeral ports, so before it is bound (or while a port of it is
//! not), any program's outgoing connection may be given one of its ports. `ip_local_reserved_ports`
//! (<https://docs.kernel.org/networking/ip-sysctl.html>) excludes them from that. It is one list
//! for the whole network namespace that others use too: ports are added to what is there, and only
//! those that were added by this forwarder are taken out again.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where Linux keeps the list.
pub const KERNEL_LIST: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

/// How often the list's lock is tried, and the time between two tries: a second in all.
const LOCK_TRIES: u32 = 500;
const LOCK_PAUSE: Duration = Duration::from_millis(2);

/// The list of reserved ports, and what of it is ours.
#[derive(Debug)]
pub(super) struct ReservedPorts {
    /// None when the list is not to be touched.
    list: Option<PathBuf>,
    ours: BTreeSet<u16>,
    /// So that a missing permission is said once.
    reported: bool,
}

impl ReservedPorts {
    /// `ours` is what a predecessor has added.
    pub(super) fn new(list: Option<PathBuf>, ours: BTreeSet<u16>) -> Self {
        Self { list, ours, reported: false }
    }

    /// What has been added.
    pub(super) fn ours(&self) -> &BTreeSet<u16> {
        &self.ours
    }

    /// Makes sure that exactly these ports are reserved by us, as far as they were not already
    /// reserved by others. Failing is no error: the ports are also held by being bound.
    pub(super) fn want(&mut self, ports: &BTreeSet<u16>) {
        let Some(list) = self.list.clone() else { return };
        match self.apply(&list, ports) {
            Ok(()) => {}
            Err(error) if self.reported => {
                tracing::debug!("can't reserve the ports: {error}");
            }
            Err(error) => {
                self.reported = true;
                tracing::info!(
                    file = %list.display(),
                    "can't reserve the ports in the kernel ({error}); they are protected by being bound"
                );
            }
        }
    }

    fn apply(&mut self, list: &Path, ports: &BTreeSet<u16>) -> io::Result<()> {
        // Other forwarders on this host change the list in the same way: reading and writing it is
        // one step for all of them. The lock goes with the file; any user of this host could hold
        // it, so it is not waited for without end.
        let one_at_a_time = fs::File::open(list)?;
        for _ in 0..LOCK_TRIES {
            match one_at_a_time.try_lock() {
                Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
                _ => break,
            }
        }
        let there = read(list)?;
        let mut next = there.clone();
        for port in self.ours.difference(ports) {
            next.remove(port);
        }
        // A port that someone else has reserved is not ours, and stays when we go.
        let added: BTreeSet<u16> = ports
            .iter()
            .copied()
            .filter(|port| self.ours.contains(port) || !there.contains(port))
            .collect();
        next.extend(&added);
        if next != there {
            let mut file = OpenOptions::new().write(true).truncate(true).open(list)?;
            // The kernel takes a list only in one piece.
            file.write_all(format(&next).as_bytes())?;
            drop(file);
            let now = read(list)?;
            if now != next {
                // The list was too long for the kernel, or another program wrote at the same time.
                self.ours = added.intersection(&now).copied().collect();
                return Err(io::Error::other("the kernel has not taken all of the list"));
            }
        }
        self.ours = added;
        Ok(())
    }
}

fn read(list: &Path) -> io::Result<BTreeSet<u16>> {
    parse(&fs::read_to_string(list)?)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the list can't be understood"))
}

/// Reads a list such as `22,50800-50899`.
pub(super) fn parse(text: &str) -> Option<BTreeSet<u16>> {
    let mut ports = BTreeSet::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        match part.split_once('-') {
            Some((first, last)) => {
                ports.extend(first.parse::<u16>().ok()?..=last.parse::<u16>().ok()?)
            }
            None => {
                ports.insert(part.parse().ok()?);
            }
        }
    }
    Some(ports)
}

pub(super) fn format(ports: &BTreeSet<u16>) -> String {
    let mut text = String::new();
    let mut rest = ports.iter().copied().peekable();
    while let Some(first) = rest.next() {
        let mut last = first;
        while let Some(next) = rest.next_if(|next| last.checked_add(1) == Some(*next)) {
            last = next;
        }
        if !text.is_empty() {
            text.push(',');
        }
        // Writing to a string can't fail.
        let _ =
            if first == last { write!(text, "{first}") } else { write!(text, "{first}-{last}") };
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn lists_are_read_and_written() {
        for (text, ports) in [
            ("\n", vec![]),
            ("22\n", vec![22]),
            ("1,3-5,65534-65535\n", vec![1, 3, 4, 5, 65534, 65535]),
        ] {
            let ports = BTreeSet::from_iter(ports);
            assert_eq!(parse(text).unwrap(), ports);
            assert_eq!(format(&ports), text);
        }
        assert!(parse("1,x").is_none());
        assert!(parse("70000").is_none());
    }

    #[test]
    fn forwarders_that_start_at_once_lose_nothing_of_each_other() {
        let directory = tempfile::tempdir().unwrap();
        let list = directory.path().join("list");
        fs::write(&list, "\n").unwrap();
        std::thread::scope(|scope| {
            for forwarder in 0..8 {
                let list = list.clone();
                scope.spawn(move || {
                    let mut reserved = ReservedPorts::new(Some(list), BTreeSet::new());
                    for count in 1..20 {
                        let first = 40_000 + forwarder * 100;
                        reserved.want(&(first..first + count).collect());
                    }
                });
            }
        });
        assert_eq!(read(&list).unwrap().len(), 8 * 19);
    }

    #[test]
    fn only_what_was_added_is_taken_out() {
        let directory = tempfile::tempdir().unwrap();
        let list = directory.path().join("list");
        let now = || fs::read_to_string(&list).unwrap();
        fs::write(&list, "80,50801\n").unwrap();
        let mut reserved = ReservedPorts::new(Some(list.clone()), BTreeSet::new());
        reserved.want(&BTreeSet::from([50800, 50801, 50802]));
        assert_eq!(now(), "80,50800-50802\n");
        assert_eq!(reserved.ours(), &BTreeSet::from([50800, 50802]));

        // Someone else adds one, and our successor drops one.
        fs::write(&list, "80,443,50800-50802\n").unwrap();
        let mut reserved = ReservedPorts::new(Some(list.clone()), reserved.ours().clone());
        reserved.want(&BTreeSet::from([50800, 50801]));
        assert_eq!(now(), "80,443,50800-50801\n");

        // After a reboot the list is empty.
        fs::write(&list, "\n").unwrap();
        reserved.want(&BTreeSet::from([50800, 50801]));
        assert_eq!(now(), "50800-50801\n");
        reserved.want(&BTreeSet::new());
        assert_eq!(now(), "\n");
    }

    #[test]
    fn an_unwritable_list_is_no_error() {
        let mut reserved =
            ReservedPorts::new(Some(PathBuf::from("/nonexistent/list")), BTreeSet::new());
        reserved.want(&BTreeSet::from([50800]));
        reserved.want(&BTreeSet::from([50800]));
        assert!(reserved.ours().is_empty());
    }
}
