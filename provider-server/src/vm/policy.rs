//! Whether a request makes sense for a VM in a state. Pure.

use super::VmState;

/// What can be asked of a VM that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Request {
    /// Bring it up.
    Start,
    /// Bring it down.
    Stop,
    /// Down and up again.
    Restart,
    /// Remove it, with its disk.
    Destroy,
    /// Bring it down, and keep it for the grace period only.
    Retain,
    /// Make its lease end later.
    Extend,
    /// Have it back from its grace period.
    Undelete,
    /// Go by the SSH keys that are written down.
    Authorize,
    /// Bring it down with its memory kept.
    Suspend,
    /// Let it go on from there.
    Resume,
    /// Make a snapshot of it.
    Snapshot,
    /// Delete one of its snapshots.
    RemoveSnapshot,
    /// Take it back to one of its snapshots.
    Restore,
    /// Give it another size.
    Resize,
    /// Let another VM begin with its disk.
    Clone,
}

impl Request {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::Start,
        Self::Stop,
        Self::Restart,
        Self::Destroy,
        Self::Retain,
        Self::Extend,
        Self::Undelete,
        Self::Authorize,
        Self::Suspend,
        Self::Resume,
        Self::Snapshot,
        Self::RemoveSnapshot,
        Self::Restore,
        Self::Resize,
        Self::Clone,
    ];
}

/// What to do about a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Carry it out.
    Accept,
    /// It is so already.
    Ignore,
    /// It can't be done now, and why.
    Refuse(&'static str),
    /// As far as its owner is concerned, there is no such VM.
    Gone,
}

const BEING_CREATED: &str = "it is still being created: wait until it runs, or destroy it";
const KEPT_ONLY: &str = "its lease has ended, and it is only kept until it is erased: have it back with \
                         'undelete' first, then start it";

const NOT_RUNNING: &str = "it does not run, and only a running VM can be suspended";
const NOT_SUSPENDED: &str = "it is not suspended, so it can't be resumed: 'start' boots it";
const IS_SUSPENDED: &str = "it is suspended: resume it first";
const NOT_AT_REST: &str = "it neither runs nor is it stopped: wait, or see what is wrong with it";

/// Decides.
#[must_use]
pub const fn decide(state: &VmState, request: Request) -> Decision {
    use Decision::{Accept, Gone, Ignore, Refuse};
    match (request, state) {
        (Request::Destroy, _) => Accept,
        (_, VmState::Destroying | VmState::Failed { .. }) => Gone,
        (Request::Authorize, VmState::Running) => Accept,
        // They are applied when it starts next, or has been made.
        (Request::Authorize, _) => Ignore,
        (Request::Undelete, VmState::Retained { .. }) => Accept,
        (Request::Undelete, _) => Ignore,
        (
            Request::Start
            | Request::Restart
            | Request::Extend
            | Request::Suspend
            | Request::Resume
            | Request::Snapshot
            | Request::RemoveSnapshot
            | Request::Restore
            | Request::Resize
            | Request::Clone,
            VmState::Retained { .. },
        ) => Refuse(KEPT_ONLY),
        (Request::Stop | Request::Retain, VmState::Retained { .. }) => Ignore,
        (Request::Extend, _) => Accept,
        (_, VmState::Creating) => Refuse(BEING_CREATED),
        // A suspended one is down; so it is for clients that know nothing of suspending.
        (Request::Start | Request::Resume, VmState::Running)
        | (Request::Stop, VmState::Stopped { .. } | VmState::Suspended)
        | (Request::Suspend, VmState::Suspended) => Ignore,
        (Request::Suspend, VmState::Running | VmState::Suspending) => Accept,
        (Request::Suspend, _) => Refuse(NOT_RUNNING),
        (Request::Resume, VmState::Suspended | VmState::Starting) => Accept,
        (Request::Resume, _) => Refuse(NOT_SUSPENDED),
        (Request::Snapshot | Request::Resize | Request::Clone, VmState::Suspended) => {
            Refuse(IS_SUSPENDED)
        }
        (
            Request::Snapshot | Request::Resize | Request::Clone,
            VmState::Starting
            | VmState::Stopping { .. }
            | VmState::Suspending
            | VmState::Error { .. },
        ) => Refuse(NOT_AT_REST),
        (
            _,
            VmState::Starting
            | VmState::Stopping { .. }
            | VmState::Running
            | VmState::Stopped { .. }
            | VmState::Suspending
            | VmState::Suspended
            | VmState::Error { .. },
        ) => Accept,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use golem_vm_protocol::ErrorCode;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;
    use crate::steady::SteadyTime;
    use crate::vm::state::AfterStop;

    fn states() -> Vec<VmState> {
        let moment = SteadyTime::from_micros(1);
        vec![
            VmState::Creating,
            VmState::Starting,
            VmState::Running,
            VmState::Stopping { next: AfterStop::Started },
            VmState::STOPPED,
            VmState::Retained { since: moment, until: moment, reason: "r".into() },
            VmState::Destroying,
            VmState::Error { message: "m".into() },
            VmState::Suspending,
            VmState::Suspended,
            VmState::Stopping {
                next: AfterStop::Restored { snapshot: "first".parse().unwrap(), run: true },
            },
            VmState::Failed { code: ErrorCode::CreateFailed, message: "m".into() },
        ]
    }

    /// What a VM is after a request that went well.
    fn after(state: &VmState, request: Request) -> Option<VmState> {
        match (decide(state, request), request) {
            (Decision::Accept, Request::Destroy) => None,
            (Decision::Accept, Request::Start | Request::Restart | Request::Resume) => {
                Some(VmState::Running)
            }
            (Decision::Accept, Request::Suspend) => Some(VmState::Suspended),
            (Decision::Accept, Request::Restore) => Some(match state {
                VmState::Running => VmState::Running,
                _ => VmState::STOPPED,
            }),
            (Decision::Accept, Request::Stop | Request::Undelete) => Some(VmState::STOPPED),
            (Decision::Accept, Request::Retain) => Some(states()[5].clone()),
            _ => Some(state.clone()),
        }
    }

    proptest! {
        /// Whatever is asked in whatever order: asking twice is asking once, nothing that was refused
        /// has changed anything, and a VM always has a way to its end.
        #[test]
        fn asking_twice_is_asking_once(
            state in select(states()),
            requests in prop::collection::vec(select(Request::ALL.to_vec()), 0..12),
        ) {
            let mut now = state;
            for request in requests {
                let Some(then) = after(&now, request) else { return Ok(()) };
                // A restart does its work each time.
                if request != Request::Restart {
                    prop_assert_eq!(after(&then, request), Some(then.clone()));
                }
                if !matches!(decide(&now, request), Decision::Accept) {
                    prop_assert_eq!(&then, &now);
                }
                prop_assert_eq!(decide(&then, Request::Destroy), Decision::Accept);
                now = then;
            }
        }

        #[test]
        fn what_is_going_or_never_was_is_gone(request in select(Request::ALL.to_vec())) {
            for state in [&states()[6], &states()[11]] {
                let expected =
                    if request == Request::Destroy { Decision::Accept } else { Decision::Gone };
                prop_assert_eq!(decide(state, request), expected);
            }
        }
    }

    #[test]
    fn keys_are_applied_to_what_runs() {
        assert_eq!(decide(&VmState::Running, Request::Authorize), Decision::Accept);
        assert_eq!(decide(&VmState::STOPPED, Request::Authorize), Decision::Ignore);
    }

    #[test]
    fn what_is_only_kept_comes_back_by_undelete_alone() {
        let kept = &states()[5];
        for request in [Request::Start, Request::Restart, Request::Extend] {
            assert_eq!(decide(kept, request), Decision::Refuse(KEPT_ONLY));
        }
        assert_eq!(decide(kept, Request::Undelete), Decision::Accept);
        assert_eq!(decide(&VmState::Running, Request::Undelete), Decision::Ignore);
    }

    #[test]
    fn what_is_suspended_goes_on_and_nothing_else_is_resumed() {
        let ask = |state: &VmState, request| decide(state, request);
        assert_eq!(ask(&VmState::Running, Request::Suspend), Decision::Accept);
        assert_eq!(ask(&VmState::Suspended, Request::Suspend), Decision::Ignore);
        assert_eq!(ask(&VmState::STOPPED, Request::Suspend), Decision::Refuse(NOT_RUNNING));
        for request in [Request::Resume, Request::Start, Request::Restart] {
            assert_eq!(ask(&VmState::Suspended, request), Decision::Accept);
        }
        assert_eq!(ask(&VmState::STOPPED, Request::Resume), Decision::Refuse(NOT_SUSPENDED));
        assert_eq!(ask(&VmState::Suspended, Request::Stop), Decision::Ignore);
        for request in [Request::Snapshot, Request::Resize, Request::Clone] {
            assert_eq!(ask(&VmState::Suspended, request), Decision::Refuse(IS_SUSPENDED));
            for state in [VmState::Running, VmState::STOPPED] {
                assert_eq!(ask(&state, request), Decision::Accept);
            }
        }
        for state in [VmState::Running, VmState::STOPPED, VmState::Suspended] {
            assert_eq!(ask(&state, Request::Restore), Decision::Accept);
            assert_eq!(ask(&state, Request::RemoveSnapshot), Decision::Accept);
        }
    }

    #[test]
    fn a_vm_in_the_making_can_only_be_destroyed_or_extended() {
        for request in Request::ALL.into_iter().filter(|request| {
            !matches!(
                request,
                Request::Destroy | Request::Extend | Request::Undelete | Request::Authorize
            )
        }) {
            assert_eq!(decide(&VmState::Creating, request), Decision::Refuse(BEING_CREATED));
        }
        assert_eq!(decide(&VmState::Creating, Request::Extend), Decision::Accept);
    }
}
