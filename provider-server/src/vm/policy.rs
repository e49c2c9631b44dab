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
}

impl Request {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Start,
        Self::Stop,
        Self::Restart,
        Self::Destroy,
        Self::Retain,
        Self::Extend,
        Self::Undelete,
        Self::Authorize,
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
        (Request::Start | Request::Restart | Request::Extend, VmState::Retained { .. }) => {
            Refuse(KEPT_ONLY)
        }
        (Request::Stop | Request::Retain, VmState::Retained { .. }) => Ignore,
        (Request::Extend, _) => Accept,
        (_, VmState::Creating) => Refuse(BEING_CREATED),
        (Request::Start, VmState::Running) | (Request::Stop, VmState::Stopped { .. }) => Ignore,
        (
            _,
            VmState::Starting
            | VmState::Stopping { .. }
            | VmState::Running
            | VmState::Stopped { .. }
            | VmState::Error { .. },
        ) => Accept,
    }
}

#[cfg(test)]
mod tests {
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
            VmState::Failed { code: ErrorCode::CreateFailed, message: "m".into() },
        ]
    }

    /// What a VM is after a request that went well.
    fn after(state: &VmState, request: Request) -> Option<VmState> {
        match (decide(state, request), request) {
            (Decision::Accept, Request::Destroy) => None,
            (Decision::Accept, Request::Start | Request::Restart) => Some(VmState::Running),
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
            for state in [&states()[6], &states()[8]] {
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
    fn a_vm_in_the_making_can_only_be_destroyed_or_extended() {
        for request in [Request::Start, Request::Stop, Request::Restart, Request::Retain] {
            assert_eq!(decide(&VmState::Creating, request), Decision::Refuse(BEING_CREATED));
        }
        assert_eq!(decide(&VmState::Creating, Request::Extend), Decision::Accept);
    }
}
