//! Groups as directories and files of the kernel's (cgroups(7)).

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::{GroupLimits, Resource};

/// Where the kernel's hierarchies are.
const ROOT: &str = "/sys/fs/cgroup";
/// A period of the CPU's limit, in microseconds.
const PERIOD: u64 = 100_000;

/// Where groups are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Layout {
    /// One directory for all our groups in each of the old hierarchies.
    V1(BTreeMap<&'static str, PathBuf>),
    /// One in the new one, and which controllers it has.
    V2(PathBuf, Vec<Resource>),
}

const V1_CONTROLLERS: [(&str, Option<Resource>); 4] = [
    ("cpu", Some(Resource::Cpu)),
    ("memory", Some(Resource::Memory)),
    ("pids", Some(Resource::Threads)),
    ("cpuacct", None),
];

const V2_CONTROLLERS: [(&str, Resource); 3] =
    [("cpu", Resource::Cpu), ("memory", Resource::Memory), ("pids", Resource::Threads)];

impl Layout {
    /// Makes the directory `name` for all our groups where that is possible.
    pub(super) fn find(name: &str) -> io::Result<Self> {
        let root = Path::new(ROOT);
        if root.join("cgroup.controllers").exists() {
            return Self::v2(root, name);
        }
        let mut directories = BTreeMap::new();
        let mut refused = io::Error::new(io::ErrorKind::NotFound, "no hierarchy is mounted");
        for (controller, _) in V1_CONTROLLERS {
            let hierarchy = root.join(controller);
            if !hierarchy.join("cgroup.procs").exists() {
                continue;
            }
            match make(&hierarchy.join(name)) {
                Ok(()) => {
                    directories.insert(controller, hierarchy.join(name));
                }
                Err(error) => refused = error,
            }
        }
        if directories.is_empty() { Err(refused) } else { Ok(Self::V1(directories)) }
    }

    /// The new hierarchy: what a group's children may be bounded in has to be said in the group.
    fn v2(root: &Path, name: &str) -> io::Result<Self> {
        let ours = root.join(name);
        make(&ours)?;
        for directory in [root, &ours] {
            for (controller, _) in V2_CONTROLLERS {
                // One that is not there, or is not given to us, is missed below.
                let _ =
                    fs::write(directory.join("cgroup.subtree_control"), format!("+{controller}"));
            }
        }
        let given = fs::read_to_string(ours.join("cgroup.subtree_control"))?;
        let has = |controller: &str| given.split_ascii_whitespace().any(|one| one == controller);
        let resources =
            V2_CONTROLLERS.into_iter().filter(|(controller, _)| has(controller)).map(|(_, r)| r);
        Ok(Self::V2(ours, resources.collect()))
    }

    pub(super) const fn how(&self) -> &'static str {
        match self {
            Self::V1(_) => "control groups v1",
            Self::V2(..) => "control groups v2",
        }
    }

    pub(super) fn enforces(&self) -> Vec<Resource> {
        match self {
            Self::V1(directories) => V1_CONTROLLERS
                .into_iter()
                .filter(|(controller, _)| directories.contains_key(controller))
                .filter_map(|(_, resource)| resource)
                .collect(),
            Self::V2(_, resources) => resources.clone(),
        }
    }

    /// Makes the group, bounds it, and puts the process into it.
    pub(super) fn enter(
        &self,
        name: &str,
        limits: &GroupLimits,
        pid: u32,
    ) -> io::Result<Vec<PathBuf>> {
        let mut groups = Vec::new();
        match self {
            Self::V1(directories) => {
                for (controller, directory) in directories {
                    let group = directory.join(name);
                    fs::create_dir_all(&group)?;
                    for (file, value) in v1_limits(controller, limits) {
                        set(&group.join(file), &value)?;
                    }
                    groups.push(group);
                }
            }
            Self::V2(directory, resources) => {
                let group = directory.join(name);
                fs::create_dir_all(&group)?;
                for (file, value) in v2_limits(resources, limits) {
                    set(&group.join(file), &value)?;
                }
                groups.push(group);
            }
        }
        admit(&groups, pid)?;
        Ok(groups)
    }
}

/// Makes the directory if it is not there, and finds out whether groups can be made in it: another user's may be there.
fn make(directory: &Path) -> io::Result<()> {
    static TRIES: AtomicU32 = AtomicU32::new(0);
    fs::create_dir_all(directory)?;
    let (process, number) = (std::process::id(), TRIES.fetch_add(1, Ordering::Relaxed));
    let tried = directory.join(format!("try-{process}-{number}"));
    fs::create_dir(&tried)?;
    fs::remove_dir(&tried)
}

/// Puts a process into groups that are there.
pub(super) fn admit(groups: &[PathBuf], pid: u32) -> io::Result<()> {
    groups.iter().try_for_each(|group| set(&group.join("cgroup.procs"), &pid.to_string()))
}

fn v1_limits(controller: &str, limits: &GroupLimits) -> Vec<(&'static str, String)> {
    let quota = u64::from(limits.cpu_millis) * PERIOD / 1000;
    match controller {
        "cpu" => vec![
            ("cpu.cfs_period_us", PERIOD.to_string()),
            ("cpu.cfs_quota_us", quota.max(1000).to_string()),
        ],
        // With swap it may never be less than without: so up in one order, and down in the other. It is set
        // before anything runs in the group, at most what it was set to by the same machine's last start.
        "memory" => vec![
            ("memory.limit_in_bytes?", limits.memory_bytes.to_string()),
            ("memory.memsw.limit_in_bytes?", limits.memory_bytes.to_string()),
            ("memory.limit_in_bytes", limits.memory_bytes.to_string()),
        ],
        "pids" => vec![("pids.max", limits.threads.to_string())],
        _ => Vec::new(),
    }
}

fn v2_limits(resources: &[Resource], limits: &GroupLimits) -> Vec<(&'static str, String)> {
    let quota = u64::from(limits.cpu_millis) * PERIOD / 1000;
    let mut all = Vec::new();
    for resource in resources {
        match resource {
            Resource::Cpu => all.push(("cpu.max", format!("{} {PERIOD}", quota.max(1000)))),
            Resource::Memory => {
                all.push(("memory.max", limits.memory_bytes.to_string()));
                all.push(("memory.swap.max?", "0".to_owned()));
                all.push(("memory.oom.group?", "1".to_owned()));
            }
            Resource::Threads => all.push(("pids.max", limits.threads.to_string())),
        }
    }
    all
}

/// Writes to a file of the kernel's. One whose name ends with `?` may refuse.
fn set(file: &Path, value: &str) -> io::Result<()> {
    if let Some(file) = file.to_str().and_then(|name| name.strip_suffix('?')) {
        let _ = fs::write(file, value);
        return Ok(());
    }
    fs::write(file, value).map_err(|error| {
        io::Error::new(error.kind(), format!("writing {value} to {}: {error}", file.display()))
    })
}

/// The groups in which a process is.
pub(super) fn directories_of(pid: u32) -> io::Result<Vec<PathBuf>> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let directories = parse_membership(&text).into_iter().map(|path| Path::new(ROOT).join(path));
    Ok(directories.filter(|directory| directory.is_dir()).collect())
}

/// Paths below the hierarchies' root, of what `/proc/PID/cgroup` says.
fn parse_membership(text: &str) -> Vec<PathBuf> {
    let lines = text.lines().filter_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let path = path.strip_prefix('/')?;
        match controllers {
            "" => Some(vec![PathBuf::from(path), Path::new("unified").join(path)]),
            named if named.starts_with("name=") => None,
            named => Some(named.split(',').map(|one| Path::new(one).join(path)).collect()),
        }
    });
    lines.flatten().filter(|path| path.file_name().is_some()).collect()
}

/// Times that a process of the group was ended for its memory.
pub(super) fn out_of_memory(directories: &[PathBuf]) -> u64 {
    let counted = directories.iter().flat_map(|directory| {
        ["memory.events", "memory.oom_control"].map(|file| directory.join(file))
    });
    let texts = counted.filter_map(|file| fs::read_to_string(file).ok());
    texts.filter_map(|text| oom_kills(&text)).max().unwrap_or(0)
}

/// The line `oom_kill N`.
fn oom_kills(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

/// Removes directories of groups; one that is gone is no error.
pub(super) fn remove(directories: &[PathBuf]) -> io::Result<()> {
    for directory in directories {
        match fs::remove_dir(directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const LIMITS: GroupLimits = GroupLimits { memory_bytes: 5000, cpu_millis: 500, threads: 9 };

    #[test]
    fn limits_are_written_as_the_kernel_reads_them() {
        let all = [Resource::Cpu, Resource::Memory, Resource::Threads];
        let v2: BTreeMap<_, _> = v2_limits(&all, &LIMITS).into_iter().collect();
        assert_eq!(v2["cpu.max"], "50000 100000");
        assert_eq!(v2["memory.max"], "5000");
        assert_eq!(v2["pids.max"], "9");
        assert!(v2_limits(&[], &LIMITS).is_empty());
        let v1: BTreeMap<_, _> = v1_limits("cpu", &LIMITS).into_iter().collect();
        assert_eq!(v1["cpu.cfs_quota_us"], "50000");
        assert_eq!(v1_limits("cpuacct", &LIMITS), []);
    }

    #[test]
    fn a_directory_that_is_there_and_takes_no_groups_is_none() {
        let ours = tempfile::tempdir().unwrap();
        make(&ours.path().join("golem")).unwrap();
        assert_eq!(fs::read_dir(ours.path().join("golem")).unwrap().count(), 0);
        assert!(make(Path::new("/proc/self")).is_err());
    }

    #[test]
    fn membership_and_counters_are_read() {
        let text =
            "12:cpu,cpuacct:/golem/a\n5:name=systemd:/x\n0::/golem.slice/b.scope\n3:pids:/\n";
        let found = parse_membership(text);
        assert!(found.contains(&"cpu/golem/a".into()) && found.contains(&"cpuacct/golem/a".into()));
        assert!(found.contains(&"golem.slice/b.scope".into()));
        assert_eq!(oom_kills("low 0\noom 3\noom_kill 2\n"), Some(2));
        assert_eq!(oom_kills("oom_kill_disable 0\nunder_oom 0\n"), None);
    }

    #[test]
    fn the_new_hierarchy_is_used_as_far_as_it_is_given() {
        let root = tempfile::tempdir().unwrap();
        let ours = root.path().join("golem");
        fs::create_dir(&ours).unwrap();
        // The kernel would make this file, and answer with what it gives.
        fs::write(ours.join("cgroup.subtree_control"), "").unwrap();
        let Layout::V2(_, none) = Layout::v2(root.path(), "golem").unwrap() else { unreachable!() };
        // A plain file keeps the last that was written.
        assert!(none.is_empty(), "{none:?}");
        let layout = Layout::V2(ours.clone(), vec![Resource::Memory]);
        assert_eq!(layout.enter("x", &LIMITS, 7).unwrap(), [ours.join("x")]);
        assert_eq!(fs::read_to_string(ours.join("x/memory.max")).unwrap(), "5000");
        assert_eq!(fs::read_to_string(ours.join("x/cgroup.procs")).unwrap(), "7");
    }

    /// On the kernel that is there: bounded, and removed.
    #[cfg(feature = "qemu")]
    #[test]
    fn a_group_of_the_kernels_bounds_and_goes() {
        use std::process::{Command, Stdio};

        use super::super::Groups;
        use crate::process::ProcessIdentity;

        let groups = Groups::find();
        println!("{groups:?}");
        if groups.enforces().is_empty() {
            println!("SKIPPED: {:?}", groups.missing());
            return;
        }
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let process = ProcessIdentity::of(child.id()).unwrap();
        let limits = GroupLimits { memory_bytes: 64 << 20, cpu_millis: 500, threads: 9 };
        let name = format!("trial-{}", child.id());
        let group = groups.enter(&name, &limits, &process).unwrap();
        // Done again, with more and with less, it is the same group.
        let more = GroupLimits { memory_bytes: 128 << 20, ..limits };
        assert_eq!(groups.enter(&name, &more, &process).unwrap(), group);
        assert_eq!(groups.enter(&name, &limits, &process).unwrap(), group);
        assert!(directories_of(child.id()).unwrap().iter().any(|at| at.ends_with(&name)));
        assert!(group.remove().is_err(), "it is not empty");
        assert_eq!(group.usage().out_of_memory, 0);
        drop(child.stdin.take());
        child.wait().unwrap();
        group.remove().unwrap();
        group.remove().unwrap();
    }
}
