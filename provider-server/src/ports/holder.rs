//! Which program has a port: for the sentence that says what to stop.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use golem_vm_protocol::text::printable;

/// Longest name of a program that is shown, in characters. The kernel keeps 15 bytes.
const MAX_NAME: usize = 32;
/// The state of a listening socket in `/proc/net/tcp` (`include/net/tcp_states.h`).
const LISTEN: &str = "0A";

/// Who has each of `ports`, in words: `nginx (process 123)`. Ports of which it can't be told, for
/// want of permission or outside Linux, are left out. Reads all of `/proc`, so not on an async thread.
pub(crate) fn holders(ports: &BTreeSet<u16>) -> BTreeMap<u16, String> {
    if ports.is_empty() { BTreeMap::new() } else { holders_in(Path::new("/proc"), ports) }
}

fn holders_in(proc: &Path, ports: &BTreeSet<u16>) -> BTreeMap<u16, String> {
    let mut sockets: BTreeMap<u16, (bool, u64)> = BTreeMap::new();
    for table in ["net/tcp", "net/tcp6"] {
        let text = fs::read_to_string(proc.join(table)).unwrap_or_default();
        for (port, listens, inode) in text.lines().skip(1).filter_map(parse_socket) {
            // A listener explains more than a connection that happens to have the number.
            if ports.contains(&port) && sockets.get(&port).is_none_or(|known| listens && !known.0) {
                sockets.insert(port, (listens, inode));
            }
        }
    }
    let owners = owners(proc, &sockets.values().map(|(_, inode)| *inode).collect());
    sockets
        .into_iter()
        .filter_map(|(port, (listens, inode))| {
            let owner = owners.get(&inode)?;
            let text = if listens { owner.clone() } else { format!("a connection of {owner}") };
            Some((port, text))
        })
        .collect()
}

/// Local port, whether it listens, and inode of one line (`man 5 proc_net_tcp`).
pub(crate) fn parse_socket(line: &str) -> Option<(u16, bool, u64)> {
    let mut fields = line.split_whitespace();
    let (_, port) = fields.nth(1)?.rsplit_once(':')?;
    let state = fields.nth(1)?;
    let inode: u64 = fields.nth(5)?.parse().ok()?;
    (inode != 0).then_some((u16::from_str_radix(port, 16).ok()?, state == LISTEN, inode))
}

/// The process behind each socket.
fn owners(proc: &Path, inodes: &BTreeSet<u64>) -> BTreeMap<u64, String> {
    let mut owners = BTreeMap::new();
    let Ok(entries) = fs::read_dir(proc) else { return owners };
    for entry in entries.flatten() {
        if owners.len() == inodes.len() {
            break;
        }
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // Other people's processes can't be looked into without root.
        let Ok(files) = fs::read_dir(entry.path().join("fd")) else { continue };
        for file in files.flatten() {
            let inode = fs::read_link(file.path()).ok().and_then(|target| {
                let text = target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
                text.parse::<u64>().ok()
            });
            if let Some(inode) = inode.filter(|inode| inodes.contains(inode)) {
                let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
                let name = printable(name.trim(), MAX_NAME);
                let name = if name.is_empty() { "a program".to_owned() } else { name };
                owners.entry(inode).or_insert_with(|| format!("{name} (process {pid})"));
            }
        }
    }
    owners
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::symlink;

    use super::*;

    const HEAD: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";

    #[test]
    fn the_program_behind_a_port_is_named() {
        let proc = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = proc.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let line = |port: u16, state: &str, inode: u64| {
            format!(
                "   0: 00000000:{port:04X} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000     0        0 {inode} 1 0 100 0 0 10 0\n"
            )
        };
        let tcp = [line(50_801, "01", 12), line(50_800, "01", 13), line(50_803, "0A", 14)].concat();
        write("net/tcp", &format!("{HEAD}{tcp}garbage\n"));
        write("net/tcp6", &format!("{HEAD}{}", line(50_800, "0A", 11)));
        write("77/comm", "ng\u{1b}inx\n");
        write("78/comm", "curl\n");
        for (pid, inode) in [(77, 11), (78, 12), (78, 13)] {
            let fd = proc.path().join(format!("{pid}/fd"));
            fs::create_dir_all(&fd).unwrap();
            symlink(format!("socket:[{inode}]"), fd.join(inode.to_string())).unwrap();
        }
        let found = holders_in(proc.path(), &BTreeSet::from([50_800, 50_801, 50_802, 50_803]));
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(found[&50_800], "ng\u{fffd}inx (process 77)");
        assert_eq!(found[&50_801], "a connection of curl (process 78)");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_very_test_holds_a_port() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let found = holders(&BTreeSet::from([port]));
        let own = format!("(process {})", std::process::id());
        assert!(found[&port].ends_with(&own), "{found:?}");
    }
}
