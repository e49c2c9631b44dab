use golem_vm_protocol::vm::{Actor, Cause};

use super::*;
use crate::backend::Backend as _;

#[tokio::test]
async fn four_answers_are_four_fates() {
    let machine = Machine::new().await;
    let program = machine.start().await;
    let vm = program.create("box").await;
    let id = vm.instance();

    // Its guest shut it down.
    machine.backend.set_stopped(id, 0, false);
    program.until("box", |state| state == Some(&VmState::STOPPED)).await;
    let events = program.vms.events(owner(), reference("box"), 0, 100).await.unwrap();
    let last = &events.last().unwrap().reason;
    assert_eq!((last.actor, last.cause), (Actor::Guest, Cause::GuestShutDown));

    // Somebody started it.
    machine.backend.start(id).await.unwrap();
    program.until("box", |state| state == Some(&VmState::Running)).await;

    // It ended for its memory, and its owner is told.
    machine.backend.set_stopped(id, 137, true);
    program
        .until("box", |state| {
            matches!(state, Some(VmState::Stopped { reason: Some(why) }) if why.contains("memory"))
        })
        .await;

    // Could not ask: nothing changes, whatever is behind it.
    program.request("box", Request::Start).await.unwrap();
    machine.backend.set_unavailable(Some("gone fishing"));
    machine.backend.set_stopped(id, 0, false);
    let asked = machine.backend.calls(crate::backend::memory::Method::Survey);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while machine.backend.calls(crate::backend::memory::Method::Survey) == asked {
        assert!(tokio::time::Instant::now() < deadline, "nobody asks");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(program.state("box").await, Some(VmState::Running));
    // It answers again: the engine took the VM down with it, and it was meant to run.
    machine.backend.set_unavailable(None);
    let host_stopped = |events: &[crate::vm::history::EventRecord]| {
        events.iter().any(|event| event.reason.cause == Cause::HostStopped)
    };
    let mut changes = program.vms.changes();
    while !host_stopped(&program.vms.events(owner(), reference("box"), 0, 100).await.unwrap()) {
        changes.changed().await.unwrap();
    }
    program.until("box", |state| state == Some(&VmState::Running)).await;

    // Gone from the backend: its owner is told, and can only destroy it.
    machine.backend.set_absent(id);
    program
        .until("box", |state| {
            matches!(state, Some(VmState::Error { message }) if message.contains("gone from the backend"))
        })
        .await;
    program.request("box", Request::Destroy).await.unwrap();
    assert_eq!(program.state("box").await, None);
    program.end().await;
}

#[tokio::test]
async fn one_that_is_only_kept_is_not_run_behind_its_leases_back() {
    let machine = Machine::new().await;
    let program = machine.start().await;
    let vm = program.create("box").await;
    program.request("box", Request::Retain).await.unwrap();
    let Some(VmState::Retained { until, .. }) = program.state("box").await else { panic!() };
    machine.backend.start(vm.instance()).await.unwrap();
    let events = async || program.vms.events(owner(), reference("box"), 0, 100).await.unwrap();
    let mut changes = program.vms.changes();
    while !events().await.iter().any(|event| event.reason.cause == Cause::FoundRunning) {
        changes.changed().await.unwrap();
    }
    program.until("box", |state| matches!(state, Some(VmState::Retained { .. }))).await;
    let Some(VmState::Retained { until: now, .. }) = program.state("box").await else { panic!() };
    assert!(now >= until);
    program.end().await;
}
