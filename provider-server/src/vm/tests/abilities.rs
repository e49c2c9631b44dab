//! Suspending, snapshots, clones and other sizes, with the backend in memory.

use golem_vm_protocol::vm::{Cause, EventKind, SnapshotName};

use super::*;
use crate::backend::memory::{Fault, Method};
use crate::backend::{BackendError, Observation};
use crate::vm::snapshot::SnapshotWanted;

fn named(name: &str) -> SnapshotName {
    name.parse().unwrap()
}

impl Program {
    async fn snapshot(&self, vm: &str, name: &str) -> Result<VmRecord, VmError> {
        let wanted = SnapshotWanted { name: named(name), key: Some(format!("key-of-{name}")) };
        self.vms.snapshot(owner(), reference(vm), wanted, OFFERED).await
    }

    async fn suspend(&self, vm: &str) -> Result<VmRecord, VmError> {
        self.vms.suspend(owner(), reference(vm), OFFERED).await
    }

    async fn causes(&self, vm: &str) -> Vec<(EventKind, Cause)> {
        let events = self.vms.events(owner(), reference(vm), 0, 1000).await.unwrap();
        events.iter().map(|event| (event.kind, event.reason.cause)).collect()
    }

    async fn reserved_gb(&self) -> u64 {
        let books = self.store.books().await.unwrap();
        assert_eq!(books.audit(), [""; 0]);
        books.reserved.storage_mib / 1024
    }
}

#[tokio::test]
async fn a_suspended_vm_goes_on_where_it_was() {
    let machine = Machine::new().await;
    let program = machine.start().await;
    let vm = program.create("box").await;
    machine.backend.write(vm.instance(), "disk", "memory");
    let suspended = program.suspend("box").await.unwrap();
    assert_eq!(suspended.state, VmState::Suspended);
    // It holds what it did, and disk for its memory.
    assert_eq!(program.reserved_gb().await, 11);
    assert_eq!(machine.backend.observe(vm.instance()).await, Ok(Observation::Suspended));
    // Again, and a stop, change nothing.
    assert_eq!(program.suspend("box").await.unwrap().state, VmState::Suspended);
    let stopped = program.request("box", Request::Stop).await.unwrap().unwrap();
    assert_eq!(stopped.state, VmState::Suspended);
    program.end().await;
    // So it is for the next program, and when the machine was away.
    let program = machine.start().await;
    assert_eq!(program.state("box").await, Some(VmState::Suspended));
    let resumed = program.request("box", Request::Resume).await.unwrap().unwrap();
    assert_eq!(resumed.state, VmState::Running);
    assert_eq!(program.reserved_gb().await, 10);
    let contents = machine.backend.contents(vm.instance()).unwrap();
    assert_eq!(contents, ("disk".to_owned(), "memory".to_owned()));
    let stages = program.stages("box").await;
    use VmStage::{Creating, Running, Starting, Suspended, Suspending};
    assert_eq!(stages, [Creating, Running, Suspending, Suspended, Starting, Running]);
    program.end().await;
}

#[tokio::test]
async fn memory_that_is_of_no_use_is_forgotten_and_told() {
    let machine = Machine::new().await;
    let program = machine.start().await;
    let vm = program.create("box").await;
    machine.backend.write(vm.instance(), "disk", "memory");
    program.suspend("box").await.unwrap();
    machine.backend.spoil_memory(vm.instance());
    let started = program.request("box", Request::Start).await.unwrap().unwrap();
    assert_eq!(started.state, VmState::Running);
    let contents = machine.backend.contents(vm.instance()).unwrap();
    assert_eq!(contents, ("disk".to_owned(), String::new()));
    assert!(program.causes("box").await.contains(&(EventKind::Note, Cause::MemoryLost)));
    program.end().await;
}

#[tokio::test]
async fn what_can_not_be_suspended_runs_on() {
    let machine = Machine::new().await;
    let program = machine.start().await;
    program.create("box").await;
    machine.backend.script(Method::Suspend, Fault::Fail(BackendError::Failed("no room".into())));
    let error = program.suspend("box").await.unwrap_err();
    assert!(error.to_string().contains("no room"), "{error}");
    assert_eq!(program.state("box").await, Some(VmState::Running));
    assert_eq!(program.reserved_gb().await, 10);
    let full = Amount { storage_mib: 10 * 1024, ..OFFERED };
    let error = program.vms.suspend(owner(), reference("box"), full).await.unwrap_err();
    assert!(matches!(error, VmError::InsufficientCapacity(_)), "{error}");
    assert_eq!(program.state("box").await, Some(VmState::Running));
    program.end().await;
}

#[tokio::test]
async fn a_lease_ends_for_what_is_suspended_too_and_its_memory_comes_back_with_it() {
    let machine = Machine::new().await;
    let program = machine.start().await;
    program.create("box").await;
    program.suspend("box").await.unwrap();
    let kept = program.request("box", Request::Retain).await.unwrap().unwrap();
    assert!(matches!(kept.state, VmState::Retained { .. }));
    assert_eq!(program.reserved_gb().await, 11);
    let day = Duration::from_secs(86_400);
    let back = program.vms.undelete(owner(), reference("box"), day, OFFERED).await.unwrap();
    assert_eq!(back.state, VmState::Suspended);
    program.request("box", Request::Destroy).await.unwrap();
    assert_eq!(program.reserved_gb().await, 0);
    program.end().await;
}

#[tokio::test]
async fn a_vm_is_taken_back_to_its_snapshots() {
    let machine = Machine::new().await;
    let program = machine.start().await;
    let vm = program.create("box").await;
    let (id, backend) = (vm.instance(), &machine.backend);
    backend.write(id, "disk 1", "memory 1");
    program.snapshot("box", "live").await.unwrap();
    // Asked for again, it is the same one; by somebody else, its name is taken.
    program.snapshot("box", "live").await.unwrap();
    let other = SnapshotWanted { name: named("live"), key: None };
    let error = program.vms.snapshot(owner(), reference("box"), other, OFFERED).await;
    assert!(matches!(error, Err(VmError::SnapshotExists { .. })));
    program.request("box", Request::Stop).await.unwrap();
    backend.write(id, "disk 2", "");
    program.snapshot("box", "cold").await.unwrap();
    // What they take is reserved.
    assert_eq!(program.reserved_gb().await, 12);
    backend.write(id, "disk 3", "");

    // With its memory it runs.
    let back = program.vms.restore(owner(), reference("box"), named("live")).await.unwrap();
    assert_eq!(back.state, VmState::Running);
    assert_eq!(backend.contents(id).unwrap(), ("disk 1".to_owned(), "memory 1".to_owned()));
    // Without, one that ran boots.
    let back = program.vms.restore(owner(), reference("box"), named("cold")).await.unwrap();
    assert_eq!(back.state, VmState::Running);
    assert_eq!(backend.contents(id).unwrap(), ("disk 2".to_owned(), String::new()));
    // What did not run is stopped.
    program.request("box", Request::Stop).await.unwrap();
    let back = program.vms.restore(owner(), reference("box"), named("cold")).await.unwrap();
    assert_eq!(back.state, VmState::STOPPED);

    let listed = program.vms.snapshots(owner(), reference("box")).await.unwrap().1;
    let names: Vec<_> = listed.iter().map(|one| (one.name.as_str(), one.with_memory)).collect();
    assert_eq!(names, [("live", true), ("cold", false)]);
    for name in ["live", "cold"] {
        program.vms.remove_snapshot(owner(), reference("box"), named(name)).await.unwrap();
        let gone = program.vms.remove_snapshot(owner(), reference("box"), named(name)).await;
        assert!(matches!(gone, Err(VmError::SnapshotNotFound { .. })));
    }
    assert_eq!(program.reserved_gb().await, 10);
    let causes = program.causes("box").await;
    for cause in [Cause::SnapshotMade, Cause::SnapshotRestored, Cause::SnapshotDeleted] {
        assert!(causes.contains(&(EventKind::Snapshot, cause)), "{causes:?}");
    }
    program.end().await;
}

#[tokio::test]
async fn a_snapshot_that_fails_leaves_nothing() {
    let machine = Machine::new().await;
    let program = machine.start().await;
    let vm = program.create("box").await;
    let failed = || BackendError::Failed("no room".into());
    machine.backend.script(Method::Snapshot, Fault::FailAfterwards(failed()));
    assert!(program.snapshot("box", "first").await.is_err());
    assert_eq!(program.reserved_gb().await, 10);
    let left = crate::backend::Snapshots::list(&machine.backend, vm.instance()).await.unwrap();
    assert!(left.is_empty());
    for number in 0..8 {
        program.snapshot("box", &format!("n{number}")).await.unwrap();
    }
    assert!(matches!(program.snapshot("box", "n8").await, Err(VmError::TooManySnapshots(_))));
    program.request("box", Request::Destroy).await.unwrap();
    assert_eq!(program.reserved_gb().await, 0);
    program.end().await;
}

#[tokio::test]
async fn another_size_is_reserved_at_once_and_what_runs_is_until_it_is_down() {
    let machine = Machine::new().await;
    let program = machine.start().await;
    let vm = program.create("box").await;
    let size = |cpu, memory, storage| VmResources { cpu, memory, storage };
    let resize = |to| program.vms.resize(owner(), reference("box"), to, OFFERED);
    let limits = || machine.backend.spec(vm.instance()).unwrap().limits;
    assert_eq!(resize(size(2, 2, 20)).await.unwrap().terms.resources, size(2, 2, 20));
    assert_eq!((limits().cpu_millis, limits().storage_mib), (2000, 20 * 1024));
    let error = resize(size(2, 2, 10)).await.unwrap_err();
    assert!(matches!(error, VmError::DiskCannotShrink { has: 20, .. }), "{error}");
    let error = resize(size(2, 64, 20)).await.unwrap_err();
    assert!(matches!(error, VmError::InsufficientCapacity(_)), "{error}");
    program.request("box", Request::Restart).await.unwrap();
    // Smaller: what it runs with is not free before it is down.
    resize(size(1, 1, 20)).await.unwrap();
    let books = program.store.books().await.unwrap();
    assert_eq!((books.reserved.cpu_millis, books.reserved.memory_mib), (2000, 2048));
    program.request("box", Request::Stop).await.unwrap();
    let books = program.store.books().await.unwrap();
    assert_eq!((books.reserved.cpu_millis, books.reserved.memory_mib), (1000, 1024));
    assert_eq!(books.audit(), [""; 0]);
    // What the backend does not do now is tried again.
    let away = BackendError::Unavailable("away".into());
    machine.backend.script(Method::Resize, Fault::Fail(away));
    assert!(resize(size(2, 2, 20)).await.is_err());
    let record = program.request("box", Request::Start).await.unwrap().unwrap();
    assert_eq!(limits().cpu_millis, 2000);
    assert_eq!(record.terms.resources, size(2, 2, 20));
    let events = program.vms.events(owner(), reference("box"), 0, 100).await.unwrap();
    let resized = events.iter().filter(|event| event.kind == EventKind::Resize);
    let sizes: Vec<_> = resized.map(|event| event.resources).collect();
    assert_eq!(sizes, [size(2, 2, 20), size(1, 1, 20), size(2, 2, 20)]);
    program.end().await;
}

#[tokio::test]
async fn a_guest_that_has_shut_itself_down_while_nobody_looked_is_not_started_again() {
    let machine = Machine::new().await;
    let program = machine.start().await;
    let vm = program.create("box").await;
    program.end().await;
    machine.backend.set_shut_down(vm.instance());
    let program = machine.start().await;
    program.until("box", |state| matches!(state, Some(VmState::Stopped { .. }))).await;
    let causes = program.causes("box").await;
    assert_eq!(causes.last(), Some(&(EventKind::State, Cause::GuestShutDown)));
    // Where that can't be told, it was meant to run.
    program.request("box", Request::Start).await.unwrap();
    program.end().await;
    machine.backend.set_stopped(vm.instance(), 0, false);
    let program = machine.start().await;
    program.until("box", |state| matches!(state, Some(VmState::Starting))).await;
    program.until("box", |state| matches!(state, Some(VmState::Running))).await;
    program.end().await;
}

#[tokio::test]
async fn what_the_backend_can_not_is_told_before_anything_is_written() {
    let machine = Machine::new().await;
    let program = machine.start_with([].into()).await;
    let vm = program.create("box").await;
    let size = VmResources { cpu: 2, memory: 2, storage: 20 };
    let (box_, offered) = (|| reference("box"), OFFERED);
    let refusals = [
        program.suspend("box").await,
        program.request("box", Request::Resume).await.map(Option::unwrap),
        program.snapshot("box", "first").await,
        program.vms.remove_snapshot(owner(), box_(), named("first")).await,
        program.vms.restore(owner(), box_(), named("first")).await,
        program.vms.resize(owner(), box_(), size, offered).await,
        program.vms.check_clone(owner(), box_()).await,
    ];
    for refusal in refusals {
        let error = refusal.unwrap_err();
        assert!(matches!(error, VmError::NotSupported { .. }), "{error}");
    }
    assert_eq!(program.vms.find(owner(), box_()).await.unwrap(), vm);
    assert_eq!(program.reserved_gb().await, 10);
    program.end().await;
}

#[tokio::test]
async fn a_clone_is_another_vm_with_the_same_disk() {
    let machine = Machine::new().await;
    let program = machine.start().await;
    let source = program.create("box").await;
    machine.backend.write(source.instance(), "disk", "memory");
    // One that can't be made leaves nothing.
    let no = BackendError::Failed("no room".into());
    machine.backend.script(Method::EnsureClone, Fault::FailAfterwards(no));
    let error = program.clone_of(&source, "third").await.unwrap_err();
    assert!(error.to_string().contains("no room"), "{error}");
    program.until("third", |state| matches!(state, None | Some(VmState::Failed { .. }))).await;
    assert_eq!(program.reserved_gb().await, 10);
    let there = crate::backend::Backend::list(&machine.backend).await.unwrap();
    assert_eq!(there, [source.instance()]);
    let clone = program.clone_of(&source, "second").await.unwrap();
    assert_eq!(clone.state, VmState::Running);
    assert_eq!(machine.backend.contents(clone.instance()).unwrap().0, "disk");
    assert_ne!(clone.host_key, source.host_key);
    assert_ne!(clone.ssh_port, source.ssh_port);
    assert_eq!(clone.authorized_keys, source.authorized_keys);
    let spec = machine.backend.spec(clone.instance()).unwrap();
    assert_eq!(spec.access.unwrap().host_key, clone.host_key.public);
    assert_eq!(program.reserved_gb().await, 20);
    // One whose source goes meanwhile is not made.
    program.request("box", Request::Destroy).await.unwrap();
    let error = program.clone_of(&source, "fourth").await.unwrap_err();
    assert!(error.to_string().contains("is gone"), "{error}");
    let seen = machine.backend.observe(clone.instance()).await;
    assert!(matches!(seen, Ok(Observation::Running { .. })), "{seen:?}");
    program.end().await;
}
