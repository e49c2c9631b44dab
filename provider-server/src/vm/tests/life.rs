use golem_vm_protocol::vm::{Cause, EventKind};

use super::*;
use crate::backend::memory::{Fault, Method};
use crate::backend::{Backend as _, BackendError, Observation};

fn unavailable() -> BackendError {
    BackendError::Unavailable("gone fishing".to_owned())
}

#[tokio::test]
async fn a_life_is_written_down_step_by_step() {
    let machine = Machine::new().await;
    let program = machine.start().await;
    let vm = program.create("box").await;
    program.request("box", Request::Stop).await.unwrap();
    program.request("box", Request::Start).await.unwrap();
    program.request("box", Request::Restart).await.unwrap();
    program.request("box", Request::Destroy).await.unwrap();
    use VmStage::{Creating, Destroyed, Destroying, Running, Starting, Stopped, Stopping};
    assert_eq!(
        program.stages(&vm.id.to_string()).await,
        [
            Creating, Running, Stopping, Stopped, Starting, Running, Stopping, Starting, Running,
            Destroying, Destroyed
        ]
    );
    // Another one of that name has a history of its own.
    let other = program.create("box").await;
    assert_eq!(program.stages("box").await, [Creating, Running]);
    assert_ne!(other.id, vm.id);
    program.end().await;
}

#[tokio::test]
async fn who_waits_for_a_vm_hears_what_its_backend_is_at() {
    let machine = Machine::new().await;
    let program = machine.start().await;
    let told = async |name: &str| {
        let events = program.vms.events(owner(), reference(name), 0, 1000).await.unwrap();
        let progress = events.into_iter().filter(|event| event.kind == EventKind::Progress);
        progress.map(|event| event.reason.detail.unwrap()).collect::<Vec<_>>()
    };
    program.create("silent").await;
    let steps = ["creating the instance", "starting it", "waiting for SSH"];
    assert_eq!(told("silent").await, steps);
    // What it says last is what is waited for.
    machine.backend.set_words(&["resuming a template", "booting (no template of this size yet)"]);
    program.create("box").await;
    let steps = [
        "creating the instance",
        "starting it",
        "resuming a template",
        "booting (no template of this size yet)",
    ];
    assert_eq!(told("box").await, steps);
    // Only while it is made.
    let before = told("box").await.len();
    program.request("box", Request::Restart).await.unwrap();
    assert_eq!(told("box").await.len(), before);
    program.end().await;
}

#[tokio::test]
async fn what_fails_in_the_making_leaves_nothing_and_says_why() {
    let machine = Machine::new().await;
    let program = machine.start().await;
    machine.backend.script(Method::Start, Fault::Fail(BackendError::Failed("no such luck".into())));
    let error = program.create_for("box", LeaseRequest::default()).await.unwrap_err();
    assert!(error.to_string().contains("no such luck"), "{error}");
    assert!(machine.backend.list().await.unwrap().is_empty());
    assert_eq!(program.store.reserved().await.unwrap(), Amount::default());
    let events = program.vms.events(owner(), reference("box"), 0, 100).await.unwrap();
    let last = events.last().unwrap();
    assert_eq!((last.to, last.reason.cause), (VmStage::Failed, Cause::LaunchFailed));
    program.end().await;
}

#[tokio::test]
async fn a_request_that_could_not_be_asked_of_the_backend_changes_no_fate() {
    let machine = Machine::new().await;
    let program = machine.start().await;
    program.create("box").await;
    machine.backend.script(Method::Stop, Fault::Fail(unavailable()));
    assert!(program.request("box", Request::Stop).await.is_err());
    assert_eq!(program.state("box").await, Some(VmState::Running));
    program.request("box", Request::Stop).await.unwrap();
    machine.backend.script(Method::Start, Fault::Fail(unavailable()));
    assert!(program.request("box", Request::Start).await.is_err());
    assert_eq!(program.state("box").await, Some(VmState::STOPPED));
    // A destroy stands: there is no way back, and it is tried on.
    machine.backend.script(Method::Destroy, Fault::Fail(unavailable()));
    assert!(program.request("box", Request::Destroy).await.is_err());
    program.until("box", |state| state.is_none()).await;
    assert!(machine.backend.list().await.unwrap().is_empty());
    program.end().await;
}

#[tokio::test]
async fn a_backend_that_hangs_holds_up_one_vm_and_nothing_else() {
    let machine = Machine::new().await;
    let program = machine.start().await;
    program.create("stuck").await;
    program.create("free").await;
    machine.backend.script(Method::Stop, Fault::Hang);
    let vms = program.vms.clone();
    let stuck =
        tokio::spawn(async move { vms.request(owner(), reference("stuck"), Request::Stop).await });
    program.until("stuck", |state| matches!(state, Some(VmState::Stopping { .. }))).await;
    program.request("free", Request::Stop).await.unwrap();
    assert_eq!(program.vms.list(owner()).await.unwrap().len(), 2);
    stuck.abort();
    program.end().await;
}

#[tokio::test]
async fn whatever_was_begun_is_brought_to_its_end_by_the_next_start() {
    let machine = Machine::new().await;
    let program = machine.start().await;
    let restarting = program.create("restarting").await;
    let leaving = program.create("leaving").await;
    let reason = || crate::vm::history::Reason::own(Cause::Requested);
    let change = |to| crate::vm::history::Transition { to, reason: reason() };
    program.end().await;
    // As it stands in the database after a kill in the middle.
    let path = machine.dir.path().join("state.db");
    let store =
        ProviderStore::open_on(&path, machine.clock.clone(), machine.uptime.clone()).unwrap();
    let next = crate::vm::state::AfterStop::Started;
    store.transition(restarting.id, change(VmState::Stopping { next })).await.unwrap();
    let next = crate::vm::state::AfterStop::Retained { reason: "its lease has ended".into() };
    store.transition(leaving.id, change(VmState::Stopping { next })).await.unwrap();
    store.close().await;
    let program = machine.start().await;
    program.until("restarting", |state| state == Some(&VmState::Running)).await;
    program.until("leaving", |state| matches!(state, Some(VmState::Retained { .. }))).await;
    assert!(matches!(
        machine.backend.observe(leaving.instance()).await.unwrap(),
        Observation::Stopped { .. }
    ));
    program.end().await;
}

#[tokio::test]
async fn what_the_provider_wants_down_goes_down_when_the_backend_answers() {
    let machine = Machine::new().await;
    let program = machine.start().await;
    let lease = LeaseRequest { duration_seconds: Some(3600), ..LeaseRequest::default() };
    program.create_for("box", lease).await.unwrap();
    machine.backend.set_unavailable(Some("gone fishing"));
    machine.sleep(Duration::from_secs(3601));
    program.until("box", |state| matches!(state, Some(VmState::Stopping { .. }))).await;
    let before = program.vms.events(owner(), reference("box"), 0, 100).await.unwrap().len();
    // However often it is looked meanwhile, it is said once.
    let asked = machine.backend.calls(Method::Survey);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while machine.backend.calls(Method::Survey) < asked + 2 {
        assert!(tokio::time::Instant::now() < deadline, "nobody asks");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(program.vms.events(owner(), reference("box"), 0, 100).await.unwrap().len(), before);
    machine.backend.set_unavailable(None);
    program.until("box", |state| matches!(state, Some(VmState::Retained { .. }))).await;
    program.end().await;
}

#[tokio::test]
async fn what_did_not_start_says_why_and_can_be_started_again() {
    let machine = Machine::new().await;
    let program = machine.start().await;
    program.create("box").await;
    program.request("box", Request::Stop).await.unwrap();
    machine.backend.script(Method::Start, Fault::Fail(BackendError::Failed("no such luck".into())));
    assert!(program.request("box", Request::Start).await.is_err());
    let says_why = |state: Option<&VmState>| {
        let why = state.and_then(VmState::message).unwrap_or_default();
        assert!(why.contains("no such luck"), "{state:?}");
        matches!(state, Some(VmState::Stopped { .. }))
    };
    program.until("box", says_why).await;
    program.request("box", Request::Start).await.unwrap();
    assert_eq!(program.state("box").await, Some(VmState::Running));
    program.end().await;
}
