//! Events of one VM that were timed in another order than they were written.

use std::time::Duration;

use golem_vm_protocol::vm::{Actor, Cause, VmStage};

use super::super::changes;
use super::*;
use crate::steady::SteadyTime;
use crate::vm::history::{Reason, Transition};

#[tokio::test]
async fn time_and_what_was_delivered_never_go_back() {
    let bench = bench();
    let vm = admit(&bench.store, new(owner(1), "box", None), room_for(1)).await.unwrap();
    let began = bench.store.moment();
    let passes = |to: VmState, seconds: u64| {
        let moment = Moment { steady: began.steady.plus(Duration::from_secs(seconds)), ..began };
        let reason = Reason::new(Actor::Requestor, Cause::Requested);
        bench.store.store.write("test", move |db| {
            changes::transition(db, vm.id, &Transition { to, reason }, moment)
        })
    };
    passes(VmState::Running, 10).await.unwrap();
    passes(VmState::STOPPED, 30).await.unwrap();
    passes(VmState::Running, 29).await.unwrap();
    passes(VmState::STOPPED, 28).await.unwrap();
    passes(VmState::Running, 40).await.unwrap();

    let events = bench.store.all_events(None, 0, 100).await.unwrap();
    let seconds = |time: SteadyTime| time.since(began.steady).as_secs();
    let told: Vec<_> = events[1..]
        .iter()
        .map(|event| (event.to, seconds(event.steady), event.delivered_micros / 1_000_000))
        .collect();
    assert_eq!(
        told,
        [
            (VmStage::Running, 10, 0),
            (VmStage::Stopped, 30, 20),
            (VmStage::Running, 30, 20),
            (VmStage::Stopped, 30, 20),
            (VmStage::Running, 40, 20),
        ]
    );
}
