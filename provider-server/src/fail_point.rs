//! The moments in a VM's life at which a test has the provider killed.
//!
//! One point for every step between "a request was accepted" and "its reply is sent", and for every step
//! that the provider takes by itself. Whatever is added between two of them gets its own; CONTRIBUTING.md
//! says how, and the crash matrix (`end-to-end/tests/crash_matrix.rs`) fails for a point that is never reached.
//!
//! [`golem_vm_node::fail_point`] says how a test arms one. Without the feature `fail-points`, which no
//! release has, [`reached`] is nothing at all.

golem_vm_node::fail_points! {
    /// A moment at which the provider may be killed.
    pub enum FailPoint {
        /// A requestor's signed request is understood; nothing was done about it.
        RequestAccepted = "request.accepted",
        /// A requestor's request is done; its reply is not on its way.
        RequestAnswered = "request.answered",

        /// The VM is let in; its task has not begun.
        CreateAdmitted = "create.admitted",
        /// The instance is there and was never started.
        CreateInstanceMade = "create.instance-made",
        /// The instance was started; nobody looked at it.
        CreateStarted = "create.started",
        /// The instance's SSH server answers, and the port leads to it.
        CreateConnected = "create.connected",
        /// The VM is written down as running.
        CreateRecorded = "create.recorded",
        /// The creation has failed; nothing of it is undone.
        CreateFailed = "create.failed",
        /// The creation has failed, and what it made is gone; the VM holds its capacity.
        CreateUndone = "create.undone",
        /// The creation was cut short by a destroy, and that is written down.
        CreateAbandoned = "create.abandoned",

        /// A VM is written down as starting.
        StartRecorded = "start.recorded",
        /// The instance was started; nobody looked at it.
        StartStarted = "start.started",
        /// The instance's SSH server answers, and the port leads to it.
        StartConnected = "start.connected",
        /// The instance did not start, and the port leads nowhere; nobody wrote that down.
        StartFailed = "start.failed",

        /// A VM is written down as stopping, with what comes then.
        StopRecorded = "stop.recorded",
        /// The instance is stopped; the port still leads to it.
        StopStopped = "stop.stopped",
        /// The instance is stopped, and the port leads nowhere.
        StopUnrouted = "stop.unrouted",

        /// A VM is written down as being suspended, with disk for its memory.
        SuspendRecorded = "suspend.recorded",
        /// The instance's memory is kept, and it has ended; the port still leads to it.
        SuspendSuspended = "suspend.suspended",
        /// The instance's memory is kept, and the port leads nowhere.
        SuspendUnrouted = "suspend.unrouted",
        /// Memory that an instance could not go on from is thrown away; it does not boot yet.
        StartForgotten = "start.forgotten",

        /// A snapshot is written down as being made.
        SnapshotRecorded = "snapshot.recorded",
        /// The snapshot is made; it is written down as being made.
        SnapshotMade = "snapshot.made",
        /// The snapshot is written down as whole.
        SnapshotKept = "snapshot.kept",
        /// A snapshot is written down as being removed.
        UnsnapshotRecorded = "unsnapshot.recorded",
        /// The snapshot is gone; it is written down as being removed.
        UnsnapshotRemoved = "unsnapshot.removed",
        /// Nothing is written down of the snapshot any more.
        UnsnapshotReleased = "unsnapshot.released",
        /// The instance was taken back to a snapshot; its VM is written down as on the way there.
        RestoreRestored = "restore.restored",
        /// The VM is written down as taken back; it does not run yet if it is to.
        RestoreRecorded = "restore.recorded",

        /// The new size is written down and reserved; the instance does not have it.
        ResizeRecorded = "resize.recorded",
        /// The instance has the new size; nobody wrote that down.
        ResizeApplied = "resize.applied",
        /// It is written down that the instance has the new size.
        ResizeKept = "resize.kept",
        /// The instance of a clone is made; its source's task has not told.
        CloneLent = "clone.lent",

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

        /// Those who use a VM were told that its lease ends; nobody wrote that down.
        LeaseWarned = "lease.warned",
        /// A lease has ended; nothing was done about it.
        LeaseEnded = "lease.ended",
        /// A VM is written down as only kept.
        LeaseKept = "lease.kept",
        /// A grace period has ended; nothing was done about it.
        LeaseGraceEnded = "lease.grace-ended",
        /// The later end of a lease is written down.
        LeaseExtended = "lease.extended",
        /// A VM that was only kept is written down as its owner's again.
        LeaseUndeleted = "lease.undeleted",

        /// The database is open; nothing of it was looked at.
        RecoveryOpened = "recovery.opened",
        /// The forwarder has the table of routes; no VM was looked at.
        RecoveryRouted = "recovery.routed",
        /// Every VM has its task; nobody is served yet.
        RecoveryTakenUp = "recovery.taken-up",
        /// A running VM's port leads to where its instance was found.
        ReconcileRouted = "reconcile.routed",
        /// An instance was looked at, and its VM's state does not fit.
        ReconcileDiffers = "reconcile.differs",
        /// A VM's state follows its instance.
        ReconcileRecorded = "reconcile.recorded",

        /// Instances without a VM are written down.
        OrphanNoted = "orphan.noted",
        /// An instance without a VM is gone; it is still written down.
        OrphanRemoved = "orphan.removed",

        /// The backend in memory has changed an instance; that is not kept yet.
        MemoryBeforeKeeping = "memory.before-keeping",
        /// The backend in memory has kept a change; nobody knows yet.
        MemoryKept = "memory.kept",
    }
}

/// The names of all points that the provider can reach, the store's among them.
pub fn names() -> impl Iterator<Item = &'static str> {
    FailPoint::ALL.iter().map(|point| point.name()).chain(golem_vm_node::fail_point::ALL)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    #[test]
    fn each_has_a_name_of_its_own() {
        let names: Vec<_> = super::names().collect();
        let different: BTreeSet<_> = names.iter().collect();
        assert_eq!(different.len(), names.len());
        for name in names {
            let good = |c: char| c.is_ascii_lowercase() || c == '-' || c == '.';
            assert!(name.chars().all(good) && name.matches('.').count() == 1, "{name}");
        }
    }
}
