//! Whether a request makes sense for a VM in a state. Pure.

use super::VmState;

/// What an owner can ask of a VM that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Bring it up.
    Start,
    /// Bring it down.
    Stop,
    /// Down and up again.
    Restart,
    /// Remove it, with its disk.
    Destroy,
    /// Go by the SSH keys that are written down.
    Authorize,
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
        (_, VmState::Creating) => {
            Refuse("it is still being created: wait until it runs, or destroy it")
        }
        (Request::Start, VmState::Running) | (Request::Stop, VmState::Stopped { .. }) => Ignore,
        (
            _,
            VmState::Starting
            | VmState::Stopping
            | VmState::Running
            | VmState::Stopped { .. }
            | VmState::Error { .. },
        ) => Accept,
    }
}

#[cfg(test)]
mod tests {
    use golem_vm_protocol::ErrorCode;

    use super::*;

    fn states() -> Vec<VmState> {
        vec![
            VmState::Creating,
            VmState::Starting,
            VmState::Running,
            VmState::Stopping,
            VmState::STOPPED,
            VmState::Destroying,
            VmState::Error { message: "m".into() },
            VmState::Failed { code: ErrorCode::CreateFailed, message: "m".into() },
        ]
    }

    #[test]
    fn destroy_is_always_possible() {
        assert!(states().iter().all(|s| decide(s, Request::Destroy) == Decision::Accept));
    }

    #[test]
    fn what_is_going_or_never_was_is_gone() {
        for request in [Request::Start, Request::Stop, Request::Restart] {
            assert_eq!(decide(&VmState::Destroying, request), Decision::Gone);
            assert_eq!(decide(&states()[7], request), Decision::Gone);
        }
    }

    #[test]
    fn keys_are_applied_to_what_runs() {
        assert_eq!(decide(&VmState::Running, Request::Authorize), Decision::Accept);
        assert_eq!(
            decide(&VmState::Stopped { reason: None }, Request::Authorize),
            Decision::Ignore
        );
        assert_eq!(decide(&VmState::Destroying, Request::Authorize), Decision::Gone);
    }

    #[test]
    fn asking_twice_changes_nothing() {
        assert_eq!(decide(&VmState::Running, Request::Start), Decision::Ignore);
        assert_eq!(decide(&VmState::STOPPED, Request::Stop), Decision::Ignore);
        assert_eq!(decide(&VmState::Running, Request::Restart), Decision::Accept);
    }

    #[test]
    fn a_vm_in_the_making_can_only_be_destroyed() {
        for request in [Request::Start, Request::Stop, Request::Restart] {
            assert!(matches!(decide(&VmState::Creating, request), Decision::Refuse(_)));
        }
    }
}
