//! Whether machines can have a network here: found by raising one.

use std::collections::BTreeSet;
use std::fs::{DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, chown};
use std::path::Path;
use std::time::Duration;

use super::program::{self, Failure};
use super::{Access, Addressing, Folder, Inside, Rules, Ruleset, lower, raise};
use crate::process::{Launch, ProcessIdentity, ProcessLimits, RunAs, Seen};

/// How long a trial of namespaces may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// The programs that are needed, and what Debian calls the packages that have them.
const PROGRAMS: [(&str, &str); 8] = [
    ("slirp4netns", "slirp4netns"),
    ("nft", "nftables"),
    ("ip", "iproute2"),
    ("unshare", "util-linux"),
    ("nsenter", "util-linux"),
    ("setpriv", "util-linux"),
    ("prlimit", "util-linux"),
    ("setsid", "util-linux"),
];

/// The device behind network cards of machines.
const TUN: &str = "/dev/net/tun";

/// Settings that keep users from having namespaces of their own: the file below `/proc/sys`,
/// the value that does, and one that does not.
const FORBIDDING: [(&str, &str, &str); 4] = [
    ("kernel/apparmor_restrict_unprivileged_userns", "1", "0"),
    ("kernel/unprivileged_userns_clone", "0", "1"),
    ("user/max_user_namespaces", "0", "15000"),
    ("user/max_net_namespaces", "0", "15000"),
];

/// Something that keeps machines from having a network, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What is wrong.
    pub what: String,
    /// What to do about it: words for a person, with the command if there is one.
    pub remedy: String,
}

impl Finding {
    fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what: what.into(), remedy: remedy.into() }
    }
}

/// Raises the network of a machine that is not there, and lowers it: `run_as` is as whom machines run, `directory`
/// one of ours that is not there yet, and is gone afterwards. Without findings, machines can have a network here.
/// Takes half a second on an idle host.
pub async fn probe(run_as: RunAs, directory: &Path) -> Vec<Finding> {
    let mut findings = missing_programs();
    findings.extend(missing_device(run_as));
    if !findings.is_empty() {
        return findings;
    }
    if let Some(finding) = missing_namespaces(run_as).await {
        return vec![finding];
    }
    let tried = trial(run_as, directory).await;
    let _ = std::fs::remove_dir_all(directory);
    match tried {
        Ok(()) => Vec::new(),
        Err(error) => vec![Finding::new(
            format!("the network of a trial machine was not raised: {error}"),
            "machines have no network here until that is mended; it is tried again at the next start",
        )],
    }
}

fn missing_programs() -> Vec<Finding> {
    let missing = PROGRAMS.iter().filter(|(name, _)| program::find(name).is_none());
    let missing: Vec<_> = missing.collect();
    if missing.is_empty() {
        return Vec::new();
    }
    let names: Vec<_> = missing.iter().map(|(name, _)| *name).collect();
    let packages: BTreeSet<_> = missing.iter().map(|(_, package)| *package).collect();
    let packages: Vec<_> = packages.into_iter().collect();
    vec![Finding::new(
        format!("programs are missing: {}", names.join(", ")),
        format!("install them: apt-get install {}", packages.join(" ")),
    )]
}

fn missing_device(run_as: RunAs) -> Option<Finding> {
    let opened = OpenOptions::new().read(true).write(true).open(TUN);
    device_finding(run_as, opened.err()?.kind())
}

fn device_finding(run_as: RunAs, kind: io::ErrorKind) -> Option<Finding> {
    match (kind, run_as) {
        (io::ErrorKind::NotFound, _) => Some(Finding::new(
            format!("there is no {TUN}"),
            "load its module, as root: modprobe tun",
        )),
        (io::ErrorKind::PermissionDenied, RunAs::Myself) => Some(Finding::new(
            format!("this user may not use {TUN}"),
            format!("allow it to all users, as distributions do, as root: chmod 0666 {TUN}"),
        )),
        (_, RunAs::Myself) => Some(Finding::new(
            format!("{TUN} can't be opened"),
            "load its module, as root: modprobe tun",
        )),
        // Root's machines get a device of their own.
        (_, RunAs::User { .. }) => None,
    }
}

/// Whether this user may have namespaces of its own, or machines' users may get them from root.
async fn missing_namespaces(run_as: RunAs) -> Option<Finding> {
    let mut words: Vec<String> = Vec::new();
    if let RunAs::User { id, .. } = run_as {
        words.extend(["setpriv".to_owned(), format!("--reuid={id}"), format!("--regid={id}")]);
        words.push("--clear-groups".to_owned());
        for caps in ["inh-caps", "ambient-caps", "bounding-set"] {
            words.push(format!("--{caps}=-all,+sys_admin"));
        }
        words.push("--".to_owned());
    }
    let unshare = ["unshare", "--user", "--map-root-user", "--net", "--mount", "--", "true"];
    words.extend(unshare.map(str::to_owned));
    let first = words.remove(0);
    let said = match program::run(&first, words, "", DEADLINE).await {
        Ok(_) => return None,
        Err(Failure::Missing) => format!("{first} is not there"),
        Err(Failure::NotRun(why) | Failure::Said(why)) => program::in_one_line(&why),
    };
    let read =
        |file: &str| std::fs::read_to_string(format!("/proc/sys/{file}")).unwrap_or_default();
    Some(namespaces_finding(run_as, &said, read))
}

fn namespaces_finding(run_as: RunAs, said: &str, read: impl Fn(&str) -> String) -> Finding {
    let forbids = FORBIDDING.iter().find(|(file, value, _)| read(file).trim() == *value);
    let what = format!("a user can't have namespaces of its own here: {said}");
    let or_root = match run_as {
        RunAs::Myself => ", or run golem-provider as root",
        RunAs::User { .. } => "",
    };
    let remedy = match forbids {
        Some((file, _, good)) => {
            let name = file.replace('/', ".");
            format!(
                "allow it, as root: sysctl -w {name}={good} (for good: a line '{name} = {good}' in \
                 /etc/sysctl.d/99-golem.conf){or_root}"
            )
        }
        None => {
            format!("run golem-provider where its system allows it, not in a container{or_root}")
        }
    };
    Finding::new(what, remedy)
}

async fn trial(run_as: RunAs, directory: &Path) -> Result<(), String> {
    let text = |error: io::Error| error.to_string();
    let (machine, stage) = (directory.join("machine"), directory.join("stage"));
    for path in [directory, &machine, &stage] {
        DirBuilder::new().mode(0o700).create(path).map_err(text)?;
    }
    if let RunAs::User { id, .. } = run_as {
        chown(&machine, Some(id), Some(id)).map_err(text)?;
    }
    let launch = Launch {
        program: "/bin/true".into(),
        arguments: Vec::new(),
        wrapper: Vec::new(),
        run_as,
        limits: ProcessLimits { open_files: 64, threads: 64, file_bytes: 0, address_space: None },
        seen: vec![Seen { directory: machine.clone(), name: "vm".to_owned(), written: true }],
        hidden: Vec::new(),
        stage,
        input: "/dev/null".into(),
        third: None,
        log: directory.join("log"),
        log_bytes: 4096,
    };
    // Dropped, it ends by itself.
    let held = launch.hold().await.map_err(text)?;
    let inside = Inside { process: held.identity(), run_as };
    let addressing = Addressing::of(&trial_id());
    let (rules, on_link) = (Rules::default(), BTreeSet::new());
    let ruleset = Ruleset {
        addressing: &addressing,
        rules: &rules,
        on_link: &on_link,
        access: Access::Internet,
    };
    let outside = machine.join("net");
    let folder = Folder { outside: &outside, inside: Path::new("/mnt/vm/net") };
    let raised = raise(inside, &ruleset, folder, |_: &ProcessIdentity| Ok(())).await;
    let uplink = raised.map_err(|error| error.to_string())?;
    lower(&uplink.process, &outside).await.map_err(|error| error.to_string())
}

/// Another one each time: two trials at once are in nobody's way.
fn trial_id() -> [u8; 16] {
    let mut id = [0; 16];
    // What could not be filled is filled anyhow.
    let _ = getrandom::fill(&mut id);
    id
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const USER: RunAs = RunAs::User { id: 7, group: None };

    #[test]
    fn what_forbids_namespaces_is_named_with_its_remedy() {
        let ubuntu = |file: &str| {
            if file.contains("apparmor") { "1\n".to_owned() } else { String::new() }
        };
        let finding = namespaces_finding(RunAs::Myself, "unshare failed", ubuntu);
        assert!(
            finding.remedy.contains("sysctl -w kernel.apparmor_restrict_unprivileged_userns=0")
        );
        assert!(finding.remedy.ends_with("or run golem-provider as root"), "{finding:?}");
        let none = |file: &str| {
            if file.contains("max_user") { "0".to_owned() } else { "5".to_owned() }
        };
        let finding = namespaces_finding(USER, "unshare failed", none);
        assert!(finding.remedy.contains("user.max_user_namespaces=15000"), "{finding:?}");
        assert!(!finding.remedy.contains("as root,"), "{finding:?}");
        let unknown = namespaces_finding(USER, "unshare failed", |_| String::new());
        assert!(unknown.remedy.contains("not in a container"), "{unknown:?}");
    }

    #[test]
    fn the_device_is_asked_of_users_only_where_root_has_it() {
        let denied = io::ErrorKind::PermissionDenied;
        assert!(device_finding(RunAs::Myself, denied).unwrap().remedy.contains("chmod 0666"));
        assert_eq!(device_finding(USER, denied), None);
        for run_as in [USER, RunAs::Myself] {
            let missing = device_finding(run_as, io::ErrorKind::NotFound).unwrap();
            assert!(missing.remedy.contains("modprobe tun"));
        }
    }

    #[cfg(feature = "qemu")]
    #[tokio::test]
    async fn a_network_is_raised_here_for_a_trial() {
        let directory = tempfile::tempdir().unwrap();
        let trial = directory.path().join("trial");
        let run_as = RunAs::User { id: 1_900_777_900, group: None };
        assert_eq!(probe(run_as, &trial).await, []);
        assert!(!trial.exists());
    }
}
