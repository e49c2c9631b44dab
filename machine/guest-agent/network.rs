//! The guest's one network interface: its hardware address and its address, now and at the next boot.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use crate::files::below;
use crate::netlink::Link;
use crate::run::Run;

/// How a machine is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Network {
    mac: String,
    address: Ipv4Addr,
    prefix: u8,
    gateway: Ipv4Addr,
    resolver: Ipv4Addr,
}

impl Network {
    /// Reads `mac address prefix gateway resolver`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let [mac, address, prefix, gateway, resolver] =
            text.split(' ').collect::<Vec<_>>().try_into().ok()?;
        Some(Self {
            mac: octets(mac).map(|_| mac.to_owned())?,
            address: address.parse().ok()?,
            prefix: prefix.parse().ok().filter(|prefix| *prefix <= 32)?,
            gateway: gateway.parse().ok()?,
            resolver: resolver.parse().ok()?,
        })
    }

    /// Gives `interface` these addresses in place of those that it has.
    ///
    /// # Errors
    /// A sentence: there is no such interface, or the kernel does not want it.
    pub(crate) fn take(&self, interface: &str, root: &Path) -> Result<(), String> {
        let index = below(root, &format!("/sys/class/net/{interface}/ifindex"));
        let index = fs::read_to_string(index)
            .ok()
            .and_then(|index| index.trim().parse().ok())
            .ok_or_else(|| format!("{interface} has no number"))?;
        let mac = octets(&self.mac).ok_or_else(|| format!("{} is no address", self.mac))?;
        let Self { address, prefix, gateway, .. } = *self;
        let link = Link { index, mac, address, prefix, gateway };
        link.take().map_err(|error| format!("{interface}: {error}"))
    }

    /// The same text with these addresses in place of those of `before`, and `mac` in place of its hardware address. Only
    /// whole addresses are replaced.
    fn replace(&self, before: &Self, mac: &str, text: &str) -> String {
        let word = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == ':';
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while !rest.is_empty() {
            let end = rest.find(|c| !word(c)).unwrap_or(rest.len());
            let (run, after) = rest.split_at(end);
            rest = after;
            if run.eq_ignore_ascii_case(&before.mac) {
                out.push_str(mac);
            } else if run == before.address.to_string() {
                out.push_str(&self.address.to_string());
                let prefix = format!("/{}", before.prefix);
                if let Some(after) = rest.strip_prefix(&prefix)
                    && !after.starts_with(|c: char| c.is_ascii_digit())
                {
                    out.push_str(&format!("/{}", self.prefix));
                    rest = after;
                }
            } else if run == before.gateway.to_string() {
                out.push_str(&self.gateway.to_string());
            } else if run == before.resolver.to_string() {
                out.push_str(&self.resolver.to_string());
            } else {
                out.push_str(run);
            }
            let end = rest.find(word).unwrap_or(rest.len());
            let (between, after) = rest.split_at(end);
            out.push_str(between);
            rest = after;
        }
        out
    }

    /// The files below `root` that name an address of `before`, with what has to stand there. Whatever renders the
    /// network's configuration in this guest (netplan, networkd, ifupdown) has written addresses into files.
    pub(crate) fn configuration(&self, before: &Self, root: &Path) -> Vec<(PathBuf, String)> {
        const DIRECTORIES: [&str; 5] = [
            THIS_BOOT,
            "/etc/netplan",
            "/etc/systemd/network",
            "/etc/network/interfaces.d",
            "/etc/udev/rules.d",
        ];
        // The card goes by its new address, and its permanent one is the template's until the next boot: it is matched by
        // either. What matches a hardware address takes several (systemd.network(5), PermanentMACAddress=).
        const THIS_BOOT: &str = "/run/systemd/network";
        const MOST: u64 = 256 * 1024;
        let mut paths: Vec<_> = DIRECTORIES
            .iter()
            .filter_map(|directory| fs::read_dir(below(root, directory)).ok())
            .flat_map(|entries| entries.flatten().map(|entry| entry.path()))
            .collect();
        paths.push(below(root, "/etc/network/interfaces"));
        paths.push(below(root, "/etc/resolv.conf"));
        paths
            .into_iter()
            // Links lead to what a service writes itself.
            .filter(|path| {
                fs::symlink_metadata(path).is_ok_and(|is| is.is_file() && is.len() <= MOST)
            })
            .filter_map(|path| {
                let text = fs::read_to_string(&path).ok()?;
                let both = format!("{} {}", before.mac, self.mac);
                let this_boot = path.starts_with(below(root, THIS_BOOT));
                let mac = if this_boot { &both } else { &self.mac };
                let replaced = self.replace(before, mac, &text);
                (replaced != text).then_some((path, replaced))
            })
            .collect()
    }
}

/// The bytes of a hardware address as it is written (`52:54:00:aa:bb:cc`).
fn octets(text: &str) -> Option<[u8; 6]> {
    let byte = |byte: &str| {
        let is_hexadecimal = byte.len() == 2 && byte.chars().all(|c| c.is_ascii_hexdigit());
        is_hexadecimal.then(|| u8::from_str_radix(byte, 16).ok()).flatten()
    };
    text.split(':').map(byte).collect::<Option<Vec<_>>>()?.try_into().ok()
}

/// The interface that has the address of `before`, or else the first real one.
pub(crate) fn interface(before: Option<&Network>, root: &Path) -> Option<String> {
    let mut names: Vec<_> = fs::read_dir(below(root, "/sys/class/net"))
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name != "lo")
        .collect();
    names.sort();
    let has = |name: &&String, mac: &str| {
        fs::read_to_string(below(root, &format!("/sys/class/net/{name}/address")))
            .is_ok_and(|address| address.trim().eq_ignore_ascii_case(mac))
    };
    names
        .iter()
        .find(|name| before.is_some_and(|before| has(name, &before.mac)))
        .or_else(|| names.first())
        .cloned()
}

/// What makes a network daemon read its files again, if one runs.
pub(crate) fn reload(root: &Path) -> Option<Run> {
    below(root, "/run/systemd/netif/state").exists().then(|| Run::new("networkctl", &["reload"]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::tests::Directory;

    fn before() -> Network {
        Network::parse("52:54:00:00:00:01 10.0.2.15 24 10.0.2.2 10.0.2.3").expect("parsed")
    }

    fn after() -> Network {
        Network::parse("52:54:00:aa:bb:cc 10.9.0.100 30 10.0.2.3 10.0.2.15").expect("parsed")
    }

    #[test]
    fn whole_addresses_are_replaced_and_nothing_else() {
        let text = "mac: \"52:54:00:00:00:01\"\naddresses: [10.0.2.15/24, 10.0.2.150/24, 10.0.2.15/240]\n\
                    via 10.0.2.2\nnameserver 10.0.2.3 110.0.2.2 10.0.2.2.5\n";
        let expected = "mac: \"52:54:00:aa:bb:cc\"\naddresses: [10.9.0.100/30, 10.0.2.150/24, 10.9.0.100/240]\n\
                    via 10.0.2.3\nnameserver 10.0.2.15 110.0.2.2 10.0.2.2.5\n";
        assert_eq!(after().replace(&before(), &after().mac, text), expected);
        assert_eq!(after().replace(&before(), "", ""), "");
    }

    #[test]
    fn only_files_that_name_the_old_addresses_are_written() {
        let root = Directory::new("network");
        fs::create_dir_all(root.0.join("etc/netplan")).expect("made");
        fs::create_dir_all(root.0.join("etc/systemd/network")).expect("made");
        fs::write(root.0.join("etc/netplan/50.yaml"), "a 52:54:00:00:00:01\n").expect("written");
        fs::write(root.0.join("etc/systemd/network/x.network"), "[Match]\n").expect("written");
        std::os::unix::fs::symlink("netplan/50.yaml", root.0.join("etc/resolv.conf"))
            .expect("linked");
        let changed = after().configuration(&before(), &root.0);
        let expected = (root.0.join("etc/netplan/50.yaml"), "a 52:54:00:aa:bb:cc\n".to_owned());
        assert_eq!(changed, [expected]);
    }

    #[test]
    fn this_boot_s_files_match_the_card_by_its_permanent_address_and_by_the_one_that_it_goes_by() {
        let root = Directory::new("network-boot");
        let path = root.0.join("run/systemd/network/10-netplan-eth0.network");
        fs::create_dir_all(path.parent().expect("a directory")).expect("made");
        let text =
            "[Match]\nPermanentMACAddress=52:54:00:00:00:01\n[Network]\nAddress=10.0.2.15/24\n";
        fs::write(&path, text).expect("written");
        let expected = "[Match]\nPermanentMACAddress=52:54:00:00:00:01 52:54:00:aa:bb:cc\n\
                        [Network]\nAddress=10.9.0.100/30\n";
        assert_eq!(after().configuration(&before(), &root.0), [(path, expected.to_owned())]);
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in [
            "",
            "52:54:00:00:00:01 10.0.2.15 24 10.0.2.2",
            "52:54:00:00:00:01 10.0.2.15 33 10.0.2.2 10.0.2.3",
            "52:54:00:00:00 10.0.2.15 24 10.0.2.2 10.0.2.3",
            "52:54:00:00:00:01;reboot 10.0.2.15 24 10.0.2.2 10.0.2.3",
            "52:54:00:00:00:01 10.0.2.15 24 10.0.2.2\nreboot 10.0.2.3",
        ] {
            assert_eq!(Network::parse(text), None, "{text}");
        }
    }
}
