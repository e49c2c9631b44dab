//! What a guest was seen to be allowed, and what follows from it.

use std::collections::HashMap;

use bollard::models::SystemInfo;
use golem_vm_protocol::text::printable;

use super::probe::security_option;
use super::{spec, trial};
use crate::backend::{Finding, kernel_numbers, open_files};

/// Where the kernel says which swap there is.
const SWAPS: &str = "/proc/swaps";

/// What a trial guest said of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Guest {
    /// Whether its CPU quota, memory and number of processes are those that it was made with.
    cpu: bool,
    memory: bool,
    processes: bool,
    /// Whether it can use no swap beyond its memory.
    no_swap: bool,
    /// Which user of the host its root is.
    root_is: u32,
    /// The capabilities that it could ever have, as bits.
    capabilities: u64,
    /// Whether a system call filter is in force.
    filtered: bool,
    /// Open files of one process at most.
    open_files: Option<u64>,
}

impl Guest {
    /// Reads the output of the trial's script.
    pub(super) fn read(output: &str) -> Result<Self, String> {
        let values: HashMap<&str, &str> =
            output.lines().filter_map(|line| line.split_once('=')).collect();
        let status = |name: &str| {
            let line = output.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.map(str::trim)
        };
        let number = |names: [&str; 2]| {
            names.iter().find_map(|name| values.get(name)?.trim().parse::<u64>().ok())
        };
        let understood = |value: Option<u32>| {
            value.ok_or_else(|| format!("it says '{}'", printable(output.trim(), 200)))
        };
        let bytes = trial::LIMITS.memory_mib << 20;
        let micros = u64::from(trial::LIMITS.cpu_millis) * 100;
        let mut map = values.get("uid_map").copied().unwrap_or_default().split_whitespace();
        let quota = match values.get("cpu.max") {
            Some(quota) => quota.split(' ').next().and_then(|quota| quota.parse().ok()),
            None => number(["cpu/cpu.cfs_quota_us"; 2]),
        };
        let swap = match values.get("memory.swap.max") {
            Some(swap) => *swap == "0",
            None => number(["memory/memory.memsw.limit_in_bytes"; 2]) == Some(bytes),
        };
        let files = output.lines().find_map(|line| line.strip_prefix("Max open files"));
        Ok(Self {
            cpu: quota == Some(micros),
            memory: number(["memory/memory.limit_in_bytes", "memory.max"]) == Some(bytes),
            processes: number(["pids/pids.max", "pids.max"])
                == Some(u64::from(trial::LIMITS.processes)),
            no_swap: swap,
            root_is: understood(map.nth(1).and_then(|id| id.parse().ok()))?,
            capabilities: status("CapBnd")
                .and_then(|bits| u64::from_str_radix(bits, 16).ok())
                .unwrap_or(u64::MAX),
            filtered: status("Seccomp") == Some("2"),
            open_files: files.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()),
        })
    }
}

/// What the engine enforces, as the wire names it, and what was found: by the trial guest where there
/// was one, else by the engine's own words.
pub(super) fn judge(
    info: &SystemInfo,
    guest: Option<&Result<Guest, String>>,
) -> (Vec<String>, Vec<Finding>) {
    let mut enforced = Vec::new();
    let mut findings = Vec::new();
    let seen = match guest {
        Some(Ok(guest)) => Some(guest),
        Some(Err(reason)) => {
            findings.push(Finding::bad(
                "trial guest",
                format!("a guest that was to tell what it is allowed did not run: {reason}"),
                "look at the engine's log; until it runs, nothing is said to be enforced",
            ));
            Some(&NOTHING)
        }
        None => None,
    };
    let table = [
        ("cpu", "CPU limit", seen.map(|g| g.cpu), info.cpu_cfs_quota, "CONFIG_CFS_BANDWIDTH"),
        ("memory", "memory limit", seen.map(|g| g.memory), info.memory_limit, "CONFIG_MEMCG"),
        (
            "processes",
            "process limit",
            seen.map(|g| g.processes),
            info.pids_limit,
            "CONFIG_CGROUP_PIDS",
        ),
    ];
    for (name, subject, tried, said, option) in table {
        if tried.or(said) == Some(true) {
            enforced.push(name.to_owned());
            findings.push(Finding::good(
                subject,
                match tried {
                    Some(_) => "a guest was seen to have the one that it was given",
                    None => "the engine says that it enforces it; tried when there is an image",
                },
            ));
        } else {
            let remedy = format!(
                "the kernel needs {option}, and its control group has to be mounted and delegated to \
                 the engine"
            );
            let detail = "the engine can't enforce it, and it is advertised so";
            findings.push(Finding::bad(subject, detail, remedy));
        }
    }
    findings.extend(swap(info, seen, &std::fs::read_to_string(SWAPS).unwrap_or_default()));
    findings.push(user_namespaces(info, seen));
    findings.push(system_calls(info, seen));
    if let Some(Ok(guest)) = guest {
        findings.push(capabilities(guest));
        findings.push(open_files::judge(guest.open_files));
        findings.push(kernel_numbers::judge());
    }
    (enforced, findings)
}

/// What is taken for seen when nothing was.
const NOTHING: Guest = Guest {
    cpu: false,
    memory: false,
    processes: false,
    no_swap: false,
    root_is: 0,
    capabilities: u64::MAX,
    filtered: false,
    open_files: None,
};

fn swap(info: &SystemInfo, seen: Option<&Guest>, swaps: &str) -> Option<Finding> {
    // Its first line is a heading.
    let there_is_swap = swaps.lines().count() > 1;
    let limited = seen.map_or(info.swap_limit == Some(true), |guest| guest.no_swap);
    (!limited && there_is_swap).then(|| {
        Finding::bad(
            "swap limit",
            "guests can use the host's swap beyond their memory",
            "boot the kernel with swapaccount=1, or turn swap off",
        )
    })
}

fn user_namespaces(info: &SystemInfo, seen: Option<&Guest>) -> Finding {
    const SUBJECT: &str = "user namespaces";
    let said = ["userns", "rootless"].iter().any(|name| security_option(info, name).is_some());
    match seen.map(|guest| guest.root_is) {
        Some(0) => {}
        Some(user) => {
            let detail = format!("a guest's root is user {user} on the host, who owns nothing");
            return Finding::good(SUBJECT, detail);
        }
        None if said => {
            return Finding::good(SUBJECT, "a guest's root is an ordinary user on the host");
        }
        None => {}
    }
    Finding::bad(
        SUBJECT,
        "a guest's root is root to the kernel",
        "put \"userns-remap\": \"default\" into /etc/docker/daemon.json and restart the engine, when no \
         VM is left on it; images and VMs from before are out of its sight then, so build the images \
         again (docs/security.md, \"Root in a VM\")",
    )
}

fn system_calls(info: &SystemInfo, seen: Option<&Guest>) -> Finding {
    const SUBJECT: &str = "system call filter";
    let said = security_option(info, "seccomp")
        .is_some_and(|option| !option.contains("profile=unconfined"));
    if seen.map_or(said, |guest| guest.filtered) {
        return Finding::good(SUBJECT, "the engine's seccomp profile is in use");
    }
    Finding::bad(
        SUBJECT,
        "guests may make any system call",
        "use a kernel with seccomp, and don't set \"seccomp-profile\": \"unconfined\" in \
         /etc/docker/daemon.json",
    )
}

fn capabilities(guest: &Guest) -> Finding {
    const SUBJECT: &str = "capabilities";
    let more = guest.capabilities & !spec::capability_bits();
    if more == 0 {
        let detail = format!("a guest has {} at most", guest.capabilities.count_ones());
        return Finding::good(SUBJECT, detail);
    }
    Finding::bad(
        SUBJECT,
        format!("a guest can have more than it was given (bits {more:#x} of capability.h)"),
        "the engine does not do as it is told: use the Docker Engine itself, and look at its settings",
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const VERSION_1: &str = "\
memory/memory.limit_in_bytes=50331648
memory/memory.memsw.limit_in_bytes=50331648
cpu/cpu.cfs_quota_us=37000
pids/pids.max=37
uid_map=         0          0 4294967295
Name:\tcat
CapBnd:\t00000000200404fb
Seccomp:\t2
Seccomp_filters:\t1
Max open files            1024                 4096                 files
";
    const VERSION_2: &str = "\
memory.max=50331648
memory.swap.max=0
cpu.max=37000 100000
pids.max=37
uid_map=         0     100000      65536
CapBnd:\t00000000200404fb
Seccomp:\t0
";

    fn info(options: &[&str]) -> SystemInfo {
        SystemInfo {
            security_options: Some(options.iter().map(ToString::to_string).collect()),
            cpu_cfs_quota: Some(true),
            memory_limit: Some(true),
            swap_limit: Some(true),
            pids_limit: Some(false),
            ..SystemInfo::default()
        }
    }

    fn bad(findings: &[Finding]) -> Vec<&str> {
        findings.iter().filter(|one| !one.good).map(|one| one.subject.as_str()).collect()
    }

    #[test]
    fn control_groups_of_both_versions_are_read() {
        for (output, root_is, filtered) in [(VERSION_1, 0, true), (VERSION_2, 100_000, false)] {
            let guest = Guest::read(output).unwrap();
            assert!(guest.cpu && guest.memory && guest.processes && guest.no_swap, "{guest:?}");
            assert_eq!((guest.root_is, guest.filtered), (root_is, filtered));
        }
        assert_eq!(Guest::read(VERSION_1).unwrap().open_files, Some(4096));
        assert!(Guest::read("sh: not found").unwrap_err().contains("not found"));
    }

    #[test]
    fn only_what_a_guest_was_seen_to_have_is_said_to_be_enforced() {
        let without =
            VERSION_1.replace("=50331648", "=9223372036854771712").replace("=37\n", "=max\n");
        let guest = Ok(Guest::read(&without).unwrap());
        let (enforced, findings) = judge(&info(&["name=seccomp,profile=default"]), Some(&guest));
        assert_eq!(enforced, ["cpu"], "whatever the engine says");
        let bad = bad(&findings);
        for subject in ["memory limit", "process limit", "user namespaces"] {
            assert!(bad.contains(&subject), "{subject}: {bad:?}");
        }
    }

    #[test]
    fn a_guest_that_does_not_run_proves_nothing() {
        let (enforced, findings) = judge(&info(&["name=userns"]), Some(&Err("no".to_owned())));
        assert!(enforced.is_empty());
        assert!(bad(&findings).contains(&"trial guest"));
    }

    #[test]
    fn without_an_image_the_engine_is_believed() {
        let (enforced, findings) = judge(&info(&[]), None);
        assert_eq!(enforced, ["cpu", "memory"]);
        assert_eq!(bad(&findings), ["process limit", "user namespaces", "system call filter"]);
        let hardened = info(&["name=seccomp,profile=builtin", "name=userns"]);
        assert_eq!(bad(&judge(&hardened, None).1), ["process limit"]);
        let open = info(&["name=seccomp,profile=unconfined", "name=rootless"]);
        assert_eq!(bad(&judge(&open, None).1), ["process limit", "system call filter"]);
    }

    #[test]
    fn swap_is_told_only_where_there_is_some() {
        let heading = "Filename Type Size Used Priority\n";
        let some = format!("{heading}/dev/vdb partition 1 0 -2\n");
        let unlimited = Guest { no_swap: false, ..NOTHING };
        assert!(swap(&info(&[]), Some(&unlimited), &some).is_some());
        assert!(swap(&info(&[]), Some(&unlimited), heading).is_none());
        assert!(swap(&info(&[]), Some(&Guest { no_swap: true, ..NOTHING }), &some).is_none());
        assert!(swap(&info(&[]), None, &some).is_none());
    }

    #[test]
    fn capabilities_beyond_the_ten_are_found_out() {
        assert!(capabilities(&Guest::read(VERSION_1).unwrap()).good);
        let raw = Guest::read(&VERSION_1.replace("200404fb", "200424fb")).unwrap();
        assert!(!capabilities(&raw).good);
    }
}
