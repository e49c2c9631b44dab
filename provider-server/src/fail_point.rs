//! The moments in a VM's life at which a test has the provider killed.
//!
//! One point for every step between "a request was accepted" and "its reply is sent", and for every step
//! that the provider takes by itself. Whatever is added between two of them gets its own; CONTRIBUTING.md
//! says how, and the crash matrix (`end-to-end/tests/crashes`) fails for a point that is never reached.
//!
//! [`golem_vm_node::fail_point`] says how a test arms one. Without the feature `fail-points`, which no
//! release has, [`reached`] is nothing at all.

macro_rules! fail_points {
    ($($(#[doc = $doc:literal])* $point:ident = $name:literal,)*) => {
        /// A moment at which the provider may be killed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum FailPoint {
            $($(#[doc = $doc])* $point,)*
        }

        impl FailPoint {
            /// Every point of this crate. Those of the store are in [`golem_vm_node::fail_point::ALL`].
            pub const ALL: &'static [Self] = &[$(Self::$point),*];

            /// Its name: the operation, a dot, and what was done last or comes next.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$point => $name,)* }
            }
        }
    };
}

fail_points! {
    /// A requestor's signed request is understood; nothing was done about it.
    RequestAccepted = "request.accepted",
    /// A requestor's request is done; its reply is not on its way.
    RequestAnswered = "request.answered",

    /// The VM is let in; its task has not begun.
    CreateAdmitted = "create.admitted",
    /// The backend is asked for the instance next.
    CreateBeforeEnsure = "create.before-ensure",
    /// The instance is there and was never started.
    CreateEnsured = "create.ensured",
    /// The instance was started; nobody looked at it.
    CreateStarted = "create.started",
    /// The instance runs and is led to, and its SSH server answers.
    CreateConnected = "create.connected",
    /// The VM is written down as running.
    CreateRecorded = "create.recorded",
    /// The creation has failed, and that is written down; its instance is still there.
    CreateFailed = "create.failed",
    /// The creation has failed, and its instance is gone; it holds its capacity.
    CreateUndone = "create.undone",

    /// A VM is written down as starting.
    StartRecorded = "start.recorded",
    /// The instance was started; nobody looked at it.
    StartStarted = "start.started",
    /// The instance runs and is led to, and its SSH server answers.
    StartConnected = "start.connected",

    /// A VM is written down as stopping.
    StopRecorded = "stop.recorded",
    /// The instance is stopped; the port still leads to it.
    StopStopped = "stop.stopped",
    /// The instance is stopped, and the port leads nowhere.
    StopUnrouted = "stop.unrouted",

    /// A restart has stopped the VM.
    RestartStopped = "restart.stopped",

    /// A VM is written down as being removed.
    DestroyRecorded = "destroy.recorded",
    /// The port leads nowhere; the instance is still there.
    DestroyUnrouted = "destroy.unrouted",
    /// The instance is gone; its row is still there.
    DestroyRemoved = "destroy.removed",
    /// The row is gone.
    DestroyReleased = "destroy.released",

    /// The new SSH keys are written down; the instance does not go by them.
    KeysRecorded = "keys.recorded",
    /// The instance goes by the new SSH keys; nobody wrote that down.
    KeysApplied = "keys.applied",

    /// The database is open; nothing of it was looked at.
    RecoveryOpened = "recovery.opened",
    /// The forwarder has the table of routes; no VM was looked at.
    RecoveryRouted = "recovery.routed",
    /// Every VM has its task; nobody is served yet.
    RecoveryTakenUp = "recovery.taken-up",
    /// An instance was looked at, and its VM's state does not fit.
    ReconcileDiffers = "reconcile.differs",
    /// A VM's state follows its instance.
    ReconcileRecorded = "reconcile.recorded",

    /// The backend in memory has changed an instance; that is not kept yet.
    MemoryBeforeKeeping = "memory.before-keeping",
    /// The backend in memory has kept a change; nobody knows yet.
    MemoryKept = "memory.kept",
}

/// Says that `point` is reached. Does not return if the process is to end here.
#[inline(always)]
pub fn reached(point: FailPoint) {
    golem_vm_node::fail_point::reached(point.name());
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::FailPoint;

    #[test]
    fn each_has_a_name_of_its_own() {
        let own = FailPoint::ALL.iter().map(|point| point.name());
        let names: Vec<_> = own.chain(golem_vm_node::fail_point::ALL).collect();
        let different: BTreeSet<_> = names.iter().collect();
        assert_eq!(different.len(), names.len());
        for name in names {
            let good = |c: char| c.is_ascii_lowercase() || c == '-' || c == '.';
            assert!(name.chars().all(good) && name.matches('.').count() == 1, "{name}");
        }
    }
}
