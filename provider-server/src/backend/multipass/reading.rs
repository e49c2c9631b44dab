//! What `multipass … --format json` says, as values: pure, and lenient. Releases differ in which keys there are,
//! in their order, and in whether figures are numbers or texts; instances of other people are among ours.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde_json::Value;

/// What Multipass says of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Running,
    Stopped,
    /// In the trash; its name and disk are kept.
    Deleted,
    Starting,
    Restarting,
    DelayedShutdown,
    Suspending,
    Suspended,
    /// Whatever it is: Multipass does not know, or we do not know its word. While an instance boots this is what
    /// is said of it.
    Unknown,
}

impl State {
    fn of(word: &str) -> Self {
        match word.to_ascii_lowercase().as_str() {
            "running" => Self::Running,
            "stopped" => Self::Stopped,
            "deleted" => Self::Deleted,
            "starting" => Self::Starting,
            "restarting" => Self::Restarting,
            "delayed shutdown" => Self::DelayedShutdown,
            "suspending" => Self::Suspending,
            "suspended" => Self::Suspended,
            _ => Self::Unknown,
        }
    }

    /// Whether it does not run, and will not by itself.
    pub(super) const fn is_down(self) -> bool {
        matches!(self, Self::Stopped | Self::Suspended | Self::Deleted)
    }
}

/// One instance in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) name: String,
    pub(super) state: State,
    /// As they are said, its own first, those of bridges inside it later.
    pub(super) addresses: Vec<String>,
}

/// What `list` says.
///
/// # Errors
/// When it is no list.
pub(super) fn list(text: &str) -> Result<Vec<Listed>, String> {
    let all = json(text)?;
    let all = all.get("list").and_then(Value::as_array).ok_or("there is no list in it")?;
    Ok(all.iter().filter_map(|one| Some(listed(one.get("name")?.as_str()?, one))).collect())
}

fn listed(name: &str, one: &Value) -> Listed {
    let addresses = one.get("ipv4").and_then(Value::as_array).into_iter().flatten();
    Listed {
        name: name.to_owned(),
        state: State::of(one.get("state").and_then(Value::as_str).unwrap_or_default()),
        addresses: addresses.filter_map(Value::as_str).map(str::to_owned).collect(),
    }
}

/// What `info NAME` says of that instance.
///
/// # Errors
/// When it says nothing of it.
pub(super) fn info(text: &str, name: &str) -> Result<Listed, String> {
    let all = json(text)?;
    let one = all.get("info").and_then(|info| info.get(name));
    one.map(|one| listed(name, one)).ok_or_else(|| format!("it says nothing of {name}"))
}

/// A snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Snapshot {
    pub(super) name: String,
    /// When it was made, in Multipass's own words.
    pub(super) created: String,
    /// Bytes that it takes, where that is said.
    pub(super) size: Option<u64>,
}

/// The snapshots in what `info NAME --snapshots` says.
///
/// # Errors
/// When it is not about that instance.
pub(super) fn snapshots(text: &str, name: &str) -> Result<Vec<Snapshot>, String> {
    let all = json(text)?;
    let info = all.get("info").ok_or("there is no info in it")?;
    // Without any, some releases leave the instance out.
    let of_it = info.get(name).and_then(|one| one.get("snapshots")).and_then(Value::as_object);
    Ok(of_it
        .into_iter()
        .flatten()
        .map(|(snapshot, about)| Snapshot {
            name: snapshot.clone(),
            created: about.get("created").and_then(Value::as_str).unwrap_or_default().to_owned(),
            size: about.get("size").and_then(number),
        })
        .collect())
}

/// The names of the images in what `find` says, aliases among them.
///
/// # Errors
/// When there are no images in it.
pub(super) fn images(text: &str) -> Result<Vec<String>, String> {
    let all = json(text)?;
    let images = all.get("images").and_then(Value::as_object).ok_or("there are no images in it")?;
    let mut names = Vec::new();
    for (name, about) in images {
        let remote = name.rsplit_once(':').map(|(remote, _)| remote);
        names.push(name.clone());
        for alias in about.get("aliases").and_then(Value::as_array).into_iter().flatten() {
            let Some(alias) = alias.as_str() else { continue };
            names.push(
                remote.map_or_else(|| alias.to_owned(), |remote| format!("{remote}:{alias}")),
            );
        }
    }
    names.sort();
    names.dedup();
    Ok(names)
}

/// The versions of client and daemon; of the latter nothing when it does not answer, or refuses this user.
///
/// # Errors
/// When there is no version in it.
pub(super) fn versions(text: &str) -> Result<(String, Option<String>), String> {
    let all = json(text)?;
    let of = |key| all.get(key).and_then(Value::as_str).map(str::to_owned);
    Ok((of("multipass").ok_or("there is no version in it")?, of("multipassd")))
}

/// The address at which an instance is reached. Bridges inside the guest (Docker's, Kubernetes') come behind its
/// own, but on old releases the own one may be missing: one in the network of Multipass's bridge is preferred,
/// where that is known.
pub(super) fn address(said: &[String], bridge: Option<Ipv4Net>) -> Option<Ipv4Addr> {
    let all: Vec<Ipv4Addr> = said
        .iter()
        .filter_map(|text| text.trim().parse().ok())
        .filter(|one: &Ipv4Addr| {
            !one.is_unspecified() && !one.is_multicast() && !one.is_broadcast()
        })
        .collect();
    let on_bridge = bridge.and_then(|network| all.iter().find(|one| network.contains(*one)));
    on_bridge.or_else(|| all.first()).copied()
}

fn json(text: &str) -> Result<Value, String> {
    // What some releases warn of stands before it.
    let start = text.find('{').ok_or("it is no JSON")?;
    serde_json::from_str(&text[start..]).map_err(|error| format!("it is no JSON: {error}"))
}

fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::recordings::{self, Recording};
    use super::*;

    fn said(name: &str) -> String {
        Recording::named(name).stdout
    }

    fn only(name: &str) -> Listed {
        let all = list(&said(name)).unwrap();
        assert_eq!(all.len(), 1, "{all:?}");
        all.into_iter().next().unwrap()
    }

    #[test]
    fn every_recorded_list_and_info_is_read() {
        for (name, state) in [
            ("list-running", State::Running),
            ("list-after-resume", State::Running),
            ("list-booting-unknown", State::Unknown),
            ("list-starting", State::Starting),
            ("list-delayed-shutdown", State::DelayedShutdown),
            ("list-while-stopping", State::Stopped),
            ("list-while-suspending", State::Suspended),
            ("list-after-force", State::Stopped),
            ("list-after-recover", State::Stopped),
            ("list-with-deleted", State::Deleted),
            ("cycle-4-list-after-daemon-restart", State::Starting),
            ("cycle-5-list-later", State::Running),
        ] {
            assert_eq!(only(name).state, state, "{name}");
        }
        for name in ["list-empty", "list-during-preparing", "kvm-missing-list", "cycle-10-list"] {
            assert_eq!(list(&said(name)), Ok(Vec::new()), "{name}");
        }
        for (name, state) in [
            ("info-running", State::Running),
            ("info-no-runtime", State::Running),
            ("info-stopped", State::Stopped),
            ("info-suspended", State::Suspended),
            ("info-deleted", State::Deleted),
            ("info-booting-unknown", State::Unknown),
            ("info-after-start-timeout", State::Unknown),
        ] {
            assert_eq!(info(&said(name), "vm1").unwrap().state, state, "{name}");
        }
        assert_eq!(info(&said("info-starting"), "cyc2").unwrap().state, State::Starting);
        assert!(info(&said("info-empty"), "vm1").is_err());
    }

    /// Nothing recorded with `--format json` and exit code 0 is left out above.
    #[test]
    fn no_recorded_answer_is_left_unread() {
        for recording in recordings::all() {
            let is_json = recording.argv.iter().any(|word| word == "json");
            if !is_json || recording.said().code != Some(0) {
                continue;
            }
            let (text, name) = (recording.stdout.as_str(), recording.name.as_str());
            match recording.argv[0].as_str() {
                "list" if recording.argv.iter().any(|word| word == "--snapshots") => {}
                "list" => drop(list(text).unwrap()),
                "info" if name == "info-empty" => {}
                "info" if recording.argv.iter().any(|word| word == "--snapshots") => {
                    drop(snapshots(text, &recording.argv[1]).unwrap());
                }
                "info" => drop(info(text, &recording.argv[1]).unwrap()),
                "version" => drop(versions(text).unwrap()),
                // Not asked for by us.
                "networks" => {}
                other => panic!("{name}: nobody reads {other}"),
            }
        }
    }

    #[test]
    fn addresses_are_only_there_while_it_runs() {
        assert_eq!(only("list-running").addresses, ["10.167.141.5"]);
        assert_eq!(only("list-booting-unknown").addresses, [""; 0]);
        let running = info(&said("info-running"), "vm1").unwrap();
        assert_eq!(address(&running.addresses, None), Some(Ipv4Addr::new(10, 167, 141, 5)));
    }

    #[test]
    fn the_first_address_that_is_one_counts_and_one_on_the_bridge_most() {
        let bridge = Some("10.167.141.0/24".parse().unwrap());
        let pick = |said: &[&str], bridge| {
            let said: Vec<String> = said.iter().map(|one| (*one).to_owned()).collect();
            address(&said, bridge).map(|address| address.to_string())
        };
        assert_eq!(pick(&[], bridge), None);
        assert_eq!(pick(&["N/A"], bridge), None);
        assert_eq!(pick(&["--", "fd42::1", "10.167.141.9"], None).as_deref(), Some("10.167.141.9"));
        assert_eq!(pick(&["172.17.0.1", "10.167.141.9"], bridge).as_deref(), Some("10.167.141.9"));
        assert_eq!(pick(&["10.1.2.3", "172.17.0.1"], bridge).as_deref(), Some("10.1.2.3"));
        assert_eq!(pick(&["0.0.0.0", "10.1.2.3"], None).as_deref(), Some("10.1.2.3"));
    }

    #[test]
    fn snapshots_are_read() {
        let found = snapshots(&said("info-snapshots"), "vm1").unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].name.as_str(), found[0].size), ("s1", None));
        assert_eq!(found[0].created, "Sat Nov 21 01:51:47 2026 UTC");
        assert_eq!(snapshots(r#"{"errors":[],"info":{}}"#, "vm1"), Ok(Vec::new()));
    }

    #[test]
    fn a_daemon_that_does_not_answer_has_no_version() {
        let of = |name| versions(&said(name)).unwrap();
        assert_eq!(of("version"), ("1.16.3".to_owned(), Some("1.16.3".to_owned())));
        assert_eq!(of("daemon-down-version").1, None);
        assert_eq!(of("unauthenticated-version").1, None);
    }

    /// Forms of other releases, written for this test.
    #[test]
    fn other_releases_are_understood() {
        let text = r#"{"list":[
            {"zone":{"name":"zone1","available":true},"state":"Unavailable","release":"Debian 13","name":"a","ipv4":[]},
            {"name":"b","state":"running","ipv4":["N/A"]},
            {"name":"c"},
            {"state":"Running"},
            "nonsense",
            {"name":"d","state":"Wandering","ipv4":"10.0.0.1","more":{"deep":[1]}}
        ],"update":{}}"#;
        let all = list(text).unwrap();
        let states: Vec<_> = all.iter().map(|one| (one.name.as_str(), one.state)).collect();
        assert_eq!(
            states,
            [
                ("a", State::Unknown),
                ("b", State::Running),
                ("c", State::Unknown),
                ("d", State::Unknown)
            ]
        );
        let sizes = r#"{"info":{"vm1":{"snapshots":{"a":{"size":"12"},"b":{"size":7},"c":{"size":""},"d":{}}}}}"#;
        let sizes: Vec<_> = snapshots(sizes, "vm1").unwrap().iter().map(|one| one.size).collect();
        assert_eq!(sizes, [Some(12), Some(7), None, None]);
        let found = r#"warning: old driver
            {"errors":[],"blueprints":{"x":{}},"images":{"24.04":{"aliases":["noble","lts"],"remote":""},"daily:26.10":{"aliases":["devel"]}}}"#;
        assert_eq!(images(found).unwrap(), ["24.04", "daily:26.10", "daily:devel", "lts", "noble"]);
        for bad in ["", "{", "[]", "null", "{}", "\u{1b}[2K", "{\"list\":3}"] {
            assert!(list(bad).is_err(), "{bad}");
        }
    }
}
