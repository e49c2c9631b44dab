//! What each backend can do and enforce at most, told by the code that finds out what of it is so here: the table in
//! docs/backends.md.

use std::collections::BTreeSet;

use golem_vm_protocol::vm::{Ability, Isolation};

use super::{docker, multipass, qemu};

/// What a backend can do at most.
#[derive(Debug, Clone)]
pub struct AtMost {
    /// What is shown above its column.
    pub heading: &'static str,
    /// How its VMs are kept apart from the host.
    pub isolation: Isolation,
    /// What runs virtual machines' processors.
    pub accel: &'static str,
    /// What contains guests.
    pub containment: &'static str,
    /// Which limits it enforces.
    pub enforced: Vec<String>,
    /// What it can do that not every backend can.
    pub abilities: BTreeSet<Ability>,
}

/// The limits that there are, and what each is.
const LIMITS: &[(&str, &str)] = &[
    ("cpu", "share of the processors"),
    ("memory", "memory"),
    ("processes", "processes and threads"),
    ("storage", "size of the disk"),
    ("bandwidth", "bandwidth and connections"),
];

/// What the abilities are, in words for people.
const fn meaning(ability: Ability) -> &'static str {
    match ability {
        Ability::Suspend => "suspend to disk and resume",
        Ability::Snapshots => "snapshots of a stopped VM",
        Ability::LiveSnapshots => "snapshots of a running VM, with its memory",
        Ability::Clone => "clones of a stopped VM",
        Ability::LiveClone => "clones of a running VM",
        Ability::Resize => "another size at the next start",
        Ability::LiveDiskResize => "a larger disk while the VM runs",
        Ability::Console => "serial console",
        Ability::CloudInit => "the requestor's own cloud-init",
        Ability::Notify => "a line to those who are logged in",
        Ability::LiveKeys => "other SSH keys while the VM runs",
        _ => "?",
    }
}

/// All backends that make something, QEMU both ways.
#[must_use]
pub fn all() -> [AtMost; 4] {
    [docker::at_most(), qemu::at_most(true), qemu::at_most(false), multipass::at_most()]
}

/// The table of docs/backends.md.
#[must_use]
pub fn markdown() -> String {
    let each = all();
    let row = |name: &str, cell: &dyn Fn(&AtMost) -> String| {
        let cells = each.iter().map(cell).collect::<Vec<_>>().join(" | ");
        format!("| {name} | {cells} |\n")
    };
    let yes = |is: bool| if is { "yes" } else { "–" }.to_owned();
    let mut table = row("", &|one| one.heading.to_owned());
    table.push_str(&row("---", &|_| "---".to_owned()));
    table.push_str(&row("isolation", &|one| one.isolation.to_string()));
    table.push_str(&row("processors", &|one| one.accel.to_owned()));
    table.push_str(&row("guests' traffic is contained by", &|one| one.containment.to_owned()));
    for (limit, what) in LIMITS {
        let name = format!("enforces `{limit}`: {what}");
        table.push_str(&row(&name, &|one| yes(one.enforced.iter().any(|has| has == limit))));
    }
    for ability in Ability::ALL {
        let name = format!("`{ability}`: {}", meaning(*ability));
        table.push_str(&row(&name, &|one| yes(one.abilities.contains(ability))));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ability_and_limit_has_words() {
        assert!(Ability::ALL.iter().all(|ability| meaning(*ability) != "?"));
        for one in all() {
            assert!(one.enforced.iter().all(|limit| LIMITS.iter().any(|(word, _)| word == limit)));
        }
    }

    #[test]
    fn an_ordinary_user_enforces_no_more_than_root() {
        let (root, user) = (qemu::at_most(true), qemu::at_most(false));
        assert!(user.enforced.iter().all(|limit| root.enforced.contains(limit)));
        assert!(!user.enforced.iter().any(|limit| limit == "cpu"));
    }
}
