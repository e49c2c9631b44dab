//! Whether the books add up: what `golem-provider doctor` looks at, and tests. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::Amount;

/// What the database says, all of one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Books {
    /// What the ledger says is reserved.
    pub reserved: Amount,
    /// The VMs.
    pub vms: Vec<Booked>,
    /// The access ports that are given away: number, and the id of the VM.
    pub ports: Vec<(u16, String)>,
}

/// A VM, as far as the ledger is concerned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Booked {
    /// Its id.
    pub id: String,
    /// Its owner.
    pub owner: String,
    /// Its owner's name for it.
    pub name: String,
    /// What it has reserved in its state.
    pub holds: Amount,
    /// Whether it holds a port and its name: every VM that did not fail.
    pub is_held: bool,
}

impl Books {
    /// What the VMs have reserved, added up.
    #[must_use]
    pub fn sum(&self) -> Amount {
        self.vms.iter().fold(Amount::default(), |sum, vm| sum.and(vm.holds))
    }

    /// What does not add up, in sentences; empty when all does.
    #[must_use]
    pub fn audit(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let sum = self.sum();
        if sum != self.reserved {
            problems.push(format!(
                "{} are reserved, and the {} VMs add up to {}",
                self.reserved.words(),
                self.vms.len(),
                sum.words()
            ));
        }
        self.audit_ports(&mut problems);
        let mut names = BTreeSet::new();
        for vm in self.vms.iter().filter(|vm| vm.is_held) {
            if !names.insert((&vm.owner, &vm.name)) {
                problems.push(format!("two VMs of one owner are called {}", vm.name));
            }
        }
        problems
    }

    fn audit_ports(&self, problems: &mut Vec<String>) {
        let held: BTreeSet<&str> =
            self.vms.iter().filter(|vm| vm.is_held).map(|vm| vm.id.as_str()).collect();
        let (mut numbers, mut of_vm) = (BTreeSet::new(), BTreeMap::new());
        for (port, vm) in &self.ports {
            if !numbers.insert(port) {
                problems.push(format!("port {port} was given to two VMs"));
            }
            if !held.contains(vm.as_str()) {
                problems.push(format!("port {port} is held for {vm}, which is no VM any more"));
            }
            *of_vm.entry(vm.as_str()).or_insert(0) += 1;
        }
        for vm in self.vms.iter().filter(|vm| vm.is_held) {
            match of_vm.get(vm.id.as_str()) {
                Some(1) => {}
                None => problems.push(format!("VM {} ({}) has no port", vm.name, vm.id)),
                Some(many) => {
                    problems.push(format!("VM {} ({}) has {many} ports", vm.name, vm.id));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm(id: &str, cpus: u64) -> Booked {
        Booked {
            id: id.to_owned(),
            owner: "me".to_owned(),
            name: format!("name-of-{id}"),
            holds: Amount { cpu_millis: cpus * 1000, memory_mib: 1024, storage_mib: 10_240 },
            is_held: true,
        }
    }

    fn books() -> Books {
        let failed = Booked { holds: Amount::default(), is_held: false, ..vm("c", 1) };
        Books {
            reserved: Amount { cpu_millis: 3000, memory_mib: 2048, storage_mib: 20_480 },
            vms: vec![vm("a", 1), vm("b", 2), failed],
            ports: vec![(50800, "a".to_owned()), (50801, "b".to_owned())],
        }
    }

    fn found(spoil: impl FnOnce(&mut Books)) -> Vec<String> {
        let mut books = books();
        spoil(&mut books);
        books.audit()
    }

    #[test]
    fn what_adds_up_is_left_alone() {
        assert_eq!(found(|_| {}), [""; 0]);
        assert_eq!(Books::default().audit(), [""; 0]);
    }

    #[test]
    fn each_thing_that_does_not_is_told() {
        assert_eq!(
            found(|books| books.reserved.cpu_millis = 2500),
            [
                "2.5 vCPUs, 2 GB of memory, 20 GB of disk are reserved, and the 3 VMs add up to 3 vCPUs, \
              2 GB of memory, 20 GB of disk"
            ]
        );
        assert_eq!(found(|books| books.ports[1].0 = 50800), ["port 50800 was given to two VMs"]);
        assert_eq!(
            found(|books| books.ports[1].1 = "c".to_owned()),
            ["port 50801 is held for c, which is no VM any more", "VM name-of-b (b) has no port"]
        );
        assert_eq!(
            found(|books| books.ports.push((50802, "a".to_owned()))),
            ["VM name-of-a (a) has 2 ports"]
        );
        assert_eq!(
            found(|books| books.vms[1].name = "name-of-a".to_owned()),
            ["two VMs of one owner are called name-of-a"]
        );
    }
}
