//! The ledger against a model of it: whatever happens in whatever order, what is reserved is what the
//! VMs hold, and never more than is offered.

use std::collections::BTreeSet;
use std::time::Duration;

use golem_vm_protocol::vm::{Actor, Cause};
use proptest::prelude::*;

use super::*;
use crate::vm::history::{Reason, Transition};

const OFFERED: Amount =
    Amount { cpu_millis: 7500, memory_mib: 12 * 1024 + 512, storage_mib: 90 * 1024 };
const PORTS: std::ops::Range<u16> = 50800..50805;
const MAX_VMS: u32 = 8;
const MAX_OF_ONE: u32 = 3;

/// What can happen. `which` chooses among the VMs that there are.
#[derive(Debug, Clone)]
enum Happening {
    Admit { owner: u8, name: u8, resources: VmResources },
    Created { which: usize },
    CreationFailed { which: usize },
    Released { which: usize },
    Stopped { which: usize },
    Broke { which: usize },
    Retained { which: usize },
    Undeleted { which: usize },
    Destroying { which: usize },
    Removed { which: usize },
    AnHourPassed,
    Restarted,
}

fn happening() -> impl Strategy<Value = Happening> {
    let which = any::<usize>();
    prop_oneof![
        8 => (1_u8..4, 0_u8..6, 1_u32..4, 1_u32..6, 1_u32..4).prop_map(
            |(owner, name, cpu, memory, tens)| Happening::Admit {
                owner,
                name,
                resources: VmResources { cpu, memory, storage: tens * 10 },
            }
        ),
        3 => which.prop_map(|which| Happening::Created { which }),
        1 => which.prop_map(|which| Happening::CreationFailed { which }),
        1 => which.prop_map(|which| Happening::Released { which }),
        2 => which.prop_map(|which| Happening::Stopped { which }),
        1 => which.prop_map(|which| Happening::Broke { which }),
        2 => which.prop_map(|which| Happening::Retained { which }),
        2 => which.prop_map(|which| Happening::Undeleted { which }),
        1 => which.prop_map(|which| Happening::Destroying { which }),
        3 => which.prop_map(|which| Happening::Removed { which }),
        1 => Just(Happening::AnHourPassed),
        1 => Just(Happening::Restarted),
    ]
}

/// What a VM holds, as the model has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holds {
    All,
    Disk,
    Nothing,
}

#[derive(Debug, Clone)]
struct Modelled {
    id: VmId,
    owner: u8,
    name: String,
    size: Amount,
    port: u16,
    holds: Holds,
    /// Whether it is being destroyed.
    goes: bool,
}

#[derive(Debug, Default)]
struct Model {
    vms: Vec<Modelled>,
}

impl Model {
    fn reserved(&self) -> Amount {
        self.vms.iter().fold(Amount::default(), |sum, vm| match vm.holds {
            Holds::All => sum.and(vm.size),
            Holds::Disk => {
                sum.and(Amount { storage_mib: vm.size.storage_mib, ..Amount::default() })
            }
            Holds::Nothing => sum,
        })
    }

    fn held(&self) -> impl Iterator<Item = &Modelled> {
        self.vms.iter().filter(|vm| vm.holds != Holds::Nothing)
    }

    fn pick(&mut self, which: usize) -> Option<&mut Modelled> {
        let count = self.vms.len();
        self.vms.get_mut(which.checked_rem(count)?)
    }

    /// What admitting has to come to.
    fn refusal(&self, owner: u8, name: &str, size: Amount) -> Option<&'static str> {
        let own = || self.held().filter(|vm| vm.owner == owner);
        if own().any(|vm| vm.name == name) {
            return Some("name");
        }
        let count = u32::try_from(self.held().count()).unwrap();
        let full = count >= MAX_VMS || u32::try_from(own().count()).unwrap() >= MAX_OF_ONE;
        if full || OFFERED.less(self.reserved()).shortfall(size).is_some() {
            return Some("capacity");
        }
        (self.held().count() == PORTS.len()).then_some("ports")
    }
}

fn refused(error: &VmError) -> &'static str {
    match error {
        VmError::NameTaken(_) => "name",
        VmError::InsufficientCapacity(_) => "capacity",
        VmError::PortsExhausted => "ports",
        _ => "something else",
    }
}

/// Has it happen to both.
async fn happen(bench: &mut Bench, model: &mut Model, happening: Happening) {
    let store = &bench.store;
    let to = |to| Transition { to, reason: Reason::new(Actor::Provider, Cause::Requested) };
    match happening {
        Happening::Admit { owner: seed, name, resources } => {
            let (name, size) = (format!("vm-{name}"), Amount::from(resources));
            let mut wanted = new(owner(seed), &name, None);
            wanted.record.terms.resources = resources;
            let bounds = Bounds {
                offered: OFFERED,
                max_vms: MAX_VMS,
                max_vms_per_requestor: Some(MAX_OF_ONE),
                ports: PORTS.collect(),
            };
            let expected = model.refusal(seed, &name, size);
            match store.admit(wanted, bounds).await {
                Ok(Admission::Admitted(record)) => {
                    assert_eq!(expected, None, "{record:?} was let in");
                    // One that failed under this name has made room.
                    model.vms.retain(|vm| {
                        vm.holds != Holds::Nothing || vm.owner != seed || vm.name != name
                    });
                    let (id, port, holds) = (record.id, record.ssh_port, Holds::All);
                    model.vms.push(Modelled {
                        id,
                        owner: seed,
                        name,
                        size,
                        port,
                        holds,
                        goes: false,
                    });
                }
                Ok(Admission::Repeated(operation)) => panic!("repeated {operation:?}"),
                Err(error) => assert_eq!(expected, Some(refused(&error)), "{error}"),
            }
        }
        Happening::AnHourPassed => {
            bench.clock.advance(3601);
            store.forget_old().await.unwrap();
            model.vms.retain(|vm| vm.holds != Holds::Nothing);
        }
        Happening::Restarted => {
            store.close().await;
            let path = bench._dir.path().join("state.db");
            bench.store = ProviderStore::open(&path, bench.clock.clone()).unwrap();
            bench.store.take_up().await.unwrap();
        }
        Happening::Created { which }
        | Happening::CreationFailed { which }
        | Happening::Released { which }
        | Happening::Stopped { which }
        | Happening::Broke { which }
        | Happening::Retained { which }
        | Happening::Undeleted { which }
        | Happening::Destroying { which }
        | Happening::Removed { which } => {
            let reserved = model.reserved();
            let Some(vm) = model.pick(which) else { return };
            let id = vm.id;
            // Nothing happens any more to one that failed, but for being forgotten.
            let failed = vm.holds == Holds::Nothing;
            match happening {
                Happening::Removed { .. } => {
                    store.remove(id, Reason::own(Cause::Requested)).await.unwrap();
                    model.vms.retain(|vm| vm.id != id);
                }
                _ if failed => {}
                Happening::Released { .. } => {
                    let (code, message) = (ErrorCode::CreateFailed, "no".to_owned());
                    store.release_failed(id, code, message).await.unwrap();
                    vm.holds = Holds::Nothing;
                }
                // What goes, goes.
                _ if vm.goes => {}
                Happening::Destroying { .. } => {
                    store.transition(id, to(VmState::Destroying)).await.unwrap();
                    vm.goes = true;
                }
                Happening::CreationFailed { .. } => {
                    let (code, message) = (ErrorCode::CreateFailed, "no".to_owned());
                    store.creation_failed(id, code, message, Cause::LaunchFailed).await.unwrap();
                    vm.goes = true;
                }
                Happening::Retained { .. } => {
                    let since = store.steady().now();
                    let until = since.plus(Duration::from_secs(3600));
                    let reason = "its lease has ended".to_owned();
                    let retained = to(VmState::Retained { since, until, reason });
                    store.transition(id, retained).await.unwrap();
                    vm.holds = Holds::Disk;
                }
                Happening::Undeleted { .. } => {
                    let lasting = Duration::from_secs(60);
                    let outcome = store.undelete(id, lasting, OFFERED).await;
                    let wanted = Amount { storage_mib: 0, ..vm.size };
                    let fits = OFFERED.less(reserved).shortfall(wanted).is_none();
                    match outcome {
                        Ok(_) if vm.holds == Holds::Disk => {
                            assert!(fits, "{vm:?} came back without room for it");
                            vm.holds = Holds::All;
                        }
                        Ok(_) => {}
                        Err(error) => {
                            assert_eq!(refused(&error), "capacity");
                            assert!(vm.holds == Holds::Disk && !fits, "{vm:?}: {error}");
                        }
                    }
                }
                // What is only kept passes to no other state but by coming back, or going.
                _ if vm.holds == Holds::Disk => {}
                Happening::Created { .. } => drop(store.created(id).await.unwrap()),
                Happening::Stopped { .. } => {
                    store.transition(id, to(VmState::STOPPED)).await.unwrap();
                }
                Happening::Broke { .. } => {
                    let broken = VmState::Error { message: "broken".to_owned() };
                    store.transition(id, to(broken)).await.unwrap();
                }
                Happening::Admit { .. } | Happening::AnHourPassed | Happening::Restarted => {}
            }
        }
    }
}

async fn compare(bench: &Bench, model: &Model) {
    let books = bench.store.books().await.unwrap();
    assert_eq!(books.audit(), [""; 0]);
    assert_eq!(books.reserved, model.reserved());
    assert_eq!(bench.store.reserved().await.unwrap(), model.reserved());
    assert_eq!(OFFERED.shortfall(books.reserved), None, "more than is offered");
    let given: BTreeSet<(u16, String)> = books.ports.into_iter().collect();
    let due = model.held().map(|vm| (vm.port, vm.id.to_string())).collect();
    assert_eq!(given, due, "ports");
    assert!(given.iter().all(|(port, _)| PORTS.contains(port)), "{given:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn what_is_reserved_is_what_vms_hold(happenings in prop::collection::vec(happening(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut bench = bench();
            let mut model = Model::default();
            for happening in happenings {
                happen(&mut bench, &mut model, happening).await;
                compare(&bench, &model).await;
            }
            // Everything goes, and everything is free.
            for vm in std::mem::take(&mut model.vms) {
                bench.store.remove(vm.id, Reason::own(Cause::Requested)).await.unwrap();
            }
            compare(&bench, &model).await;
            assert_eq!(bench.store.reserved().await.unwrap(), Amount::default());
        });
    }
}
