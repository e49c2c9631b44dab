use golem_vm_protocol::vm::{Cause, OnExpiry};

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

fn for_hours(hours: u64) -> LeaseRequest {
    LeaseRequest { duration_seconds: Some(hours * 3600), ..LeaseRequest::default() }
}

fn is_retained(state: Option<&VmState>) -> bool {
    matches!(state, Some(VmState::Retained { .. }))
}

#[tokio::test]
async fn at_the_end_a_vm_is_kept_and_after_the_grace_it_is_erased() {
    let machine = Machine::new().await;
    let program = machine.start().await;
    let vm = program.create_for("box", for_hours(10)).await.unwrap();
    machine.sleep(HOUR * 9 + HOUR / 2);
    // Warned first, inside as well.
    let mut changes = program.vms.changes();
    while !program.vms.find(owner(), reference("box")).await.unwrap().lease.warned {
        changes.changed().await.unwrap();
    }
    let told = machine.backend.told();
    assert!(
        told[0].1.contains("ends in 30 min") && told[0].1.contains("golem vm extend box"),
        "{told:?}"
    );
    assert_eq!(program.state("box").await, Some(VmState::Running));

    machine.sleep(HOUR);
    program.until("box", is_retained).await;
    assert!(machine.ports.0.lock().unwrap().is_empty(), "its port leads nowhere");
    assert!(machine.backend.spec(vm.instance()).is_some(), "its disk is kept");
    // In the grace period it holds disk, name and port, and neither vCPUs nor memory.
    let reserved = program.store.reserved().await.unwrap();
    assert_eq!((reserved.cpu_millis, reserved.memory_mib, reserved.storage_mib), (0, 0, 10_240));
    assert!(matches!(program.request("box", Request::Start).await, Err(VmError::Conflict { .. })));

    machine.sleep(HOUR * 25);
    program.until("box", |state| state.is_none()).await;
    assert!(machine.backend.spec(vm.instance()).is_none());
    use VmStage::{Creating, Destroyed, Destroying, Retained, Running, Stopping};
    assert_eq!(
        program.stages(&vm.id.to_string()).await,
        [Creating, Running, Stopping, Retained, Destroying, Destroyed]
    );
    let events = program.vms.events(owner(), reference("box"), 0, 1000).await.unwrap();
    let last = events.last().unwrap();
    // Time passes only where the test lets it pass, and a little on real threads' account does not count.
    assert_eq!(last.delivered_micros, (HOUR * 10 + HOUR / 2).as_micros() as u64);
    assert!(events.iter().any(|event| event.reason.cause == Cause::LeaseEndsSoon));
    program.end().await;
}

#[tokio::test]
async fn a_throw_away_machine_goes_at_once() {
    let machine = Machine::new().await;
    let program = machine.start().await;
    let lease = LeaseRequest { on_expiry: Some(OnExpiry::Destroy), ..for_hours(1) };
    program.create_for("box", lease).await.unwrap();
    machine.sleep(HOUR * 2);
    program.until("box", |state| state.is_none()).await;
    program.end().await;
}

#[tokio::test]
async fn extending_can_be_repeated_and_never_shortens() {
    let machine = Machine::new().await;
    let program = machine.start().await;
    let vm = program.create_for("box", for_hours(1)).await.unwrap();
    let end = vm.lease.expires.unwrap();
    for _ in 0..2 {
        let record =
            program.vms.extend(owner(), reference("box"), end.plus(HOUR * 3)).await.unwrap();
        assert_eq!(record.lease.expires, Some(end.plus(HOUR * 3)));
    }
    let record = program.vms.extend(owner(), reference("box"), end).await.unwrap();
    assert_eq!(record.lease.expires, Some(end.plus(HOUR * 3)));
    machine.sleep(HOUR * 3);
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(program.state("box").await, Some(VmState::Running));
    machine.sleep(HOUR + HOUR);
    program.until("box", is_retained).await;
    let refused = program.vms.extend(owner(), reference("box"), end.plus(HOUR * 9)).await;
    assert!(matches!(refused, Err(VmError::Conflict { .. })), "{refused:?}");
    program.end().await;
}

#[tokio::test]
async fn what_is_kept_comes_back_if_there_is_room() {
    let machine = Machine::new().await;
    let program = machine.start().await;
    program.create("box").await;
    program.request("box", Request::Retain).await.unwrap();
    assert!(is_retained(program.state("box").await.as_ref()));
    program.create("two").await;
    program.create("three").await;
    let back = program.vms.undelete(owner(), reference("box"), HOUR, OFFERED).await;
    assert!(matches!(back, Err(VmError::InsufficientCapacity(_))), "{back:?}");
    assert!(is_retained(program.state("box").await.as_ref()), "what was refused changed nothing");
    program.request("two", Request::Destroy).await.unwrap();
    for _ in 0..2 {
        let back = program.vms.undelete(owner(), reference("box"), HOUR, OFFERED).await.unwrap();
        assert_eq!(back.state, VmState::STOPPED);
    }
    program.request("box", Request::Start).await.unwrap();
    assert_eq!(program.store.reserved().await.unwrap().cpu_millis, 2000);
    program.end().await;
}

#[tokio::test]
async fn a_lease_that_ends_while_nothing_runs_ends_at_the_next_start_and_grace_begins_then() {
    let machine = Machine::new().await;
    let program = machine.start().await;
    program.create_for("box", for_hours(1)).await.unwrap();
    program.end().await;
    // The clock on the wall is a day wrong meanwhile, in either direction: it does not matter.
    machine.sleep(HOUR * 100);
    machine.clock.set(1_795_000_000 - 24 * 3600);
    let program = machine.start().await;
    program.until("box", is_retained).await;
    let Some(VmState::Retained { since, until, .. }) = program.state("box").await else { panic!() };
    assert_eq!(until.since(since), HOUR * 24);
    program.end().await;
}

#[tokio::test]
async fn a_wall_clock_set_forward_by_a_day_ends_nothing() {
    let machine = Machine::new().await;
    let program = machine.start().await;
    program.create_for("box", for_hours(10)).await.unwrap();
    machine.clock.advance(24 * 3600);
    program.end().await;
    let program = machine.start().await;
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(program.state("box").await, Some(VmState::Running));
    program.end().await;
}

#[tokio::test]
async fn after_a_boot_nothing_is_erased_before_its_owner_had_time() {
    let machine = Machine::new().await;
    let program = machine.start().await;
    program.create("kept").await;
    program.create("running").await;
    program.request("kept", Request::Retain).await.unwrap();
    let ran = program.vms.find(owner(), reference("running")).await.unwrap();
    machine.sleep(HOUR * 2);
    program.store.mark_time().await.unwrap();
    program.end().await;
    // The machine is off for three days; its instances are down when it is up again.
    machine.clock.advance(72 * 3600);
    machine.uptime.boot("second");
    machine.backend.set_stopped(ran.instance(), 0, false);
    let program = machine.start().await;
    program.until("running", |state| state == Some(&VmState::Running)).await;
    assert!(is_retained(program.state("kept").await.as_ref()));
    let events = program.vms.events(owner(), reference("running"), 0, 100).await.unwrap();
    // Only what it ran before the machine went down was delivered.
    assert_eq!(events.last().unwrap().delivered_micros, (HOUR * 2).as_micros() as u64);
    machine.sleep(HOUR + HOUR / 60);
    program.until("kept", |state| state.is_none()).await;
    program.end().await;
}

#[tokio::test]
async fn one_that_nobody_uses_is_stopped_where_its_owner_asked_for_it() {
    let machine = Machine::new().await;
    let program = machine.start().await;
    let lease = LeaseRequest { stop_when_idle_seconds: Some(1800), ..LeaseRequest::default() };
    program.create_for("idle", lease).await.unwrap();
    program.create("other").await;
    let mut guard = crate::vm::idle_guard::Guard::default();
    guard.round(&program.vms, &*machine.ports).await;
    machine.sleep(Duration::from_secs(1799));
    guard.round(&program.vms, &*machine.ports).await;
    assert_eq!(program.state("idle").await, Some(VmState::Running));
    machine.sleep(Duration::from_secs(2));
    guard.round(&program.vms, &*machine.ports).await;
    let Some(VmState::Stopped { reason: Some(reason) }) = program.state("idle").await else {
        panic!("it goes on")
    };
    assert!(reason.contains("not used for 30 min"), "{reason}");
    assert_eq!(program.state("other").await, Some(VmState::Running));
    program.end().await;
}
