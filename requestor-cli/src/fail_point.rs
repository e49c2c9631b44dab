//! The moments of a create at which a test has `golem` killed: one for every step after which something is
//! known, or done, that was not before. `tests/killed.rs` fails for a point that is never reached.
//!
//! [`golem_vm_node::fail_point`] says how a test arms one. Without the feature `fail-points`, which no release
//! has, [`reached`] is nothing at all.

golem_vm_node::fail_points! {
    /// A moment at which `golem` may be killed.
    pub enum FailPoint {
        /// A provider is chosen; nothing is written down.
        Chosen = "create.chosen",
        /// The attempt is written down; nothing was sent.
        Intended = "create.intended",
        /// It is written down that the request is sent now.
        Asking = "create.asking",
        /// The provider has answered; nobody wrote that down.
        Answered = "create.answered",
        /// The VM's id is written down.
        Accepted = "create.accepted",
        /// The provider was asked how far it is.
        Followed = "create.followed",
        /// The provider has made the VM; nobody wrote that down.
        Made = "create.made",
        /// What the provider has made is written down, and nobody compared it with what was asked for.
        Observed = "create.observed",
        /// It is known where to log in; nobody wrote that down.
        Opened = "create.opened",
        /// Where to log in is written down.
        AccessNoted = "create.access-noted",
        /// A login has worked; nobody wrote that down.
        LoggedIn = "create.logged-in",
        /// All is written down; nobody was told.
        Active = "create.active",

        /// The provider has refused; nobody wrote that down.
        Refused = "failover.refused",
        /// The attempt at a provider that refused is forgotten.
        Forgotten = "failover.forgotten",
        /// What a provider may have made is written down as not wanted.
        Unwanted = "failover.unwanted",
        /// What is not wanted is destroyed; nobody wrote that down.
        Destroyed = "failover.destroyed",
        /// What is not wanted is destroyed, and forgotten.
        DestroyedNoted = "failover.destroyed-noted",

        /// The provider was asked by its key which VM a create that was cut off has made; nobody wrote that down.
        Learned = "settle.learned",
        /// It is known that a create that was cut off has made its VM; nobody wrote that down.
        Found = "settle.found",
        /// A create that was cut off is settled; nobody was told.
        Settled = "settle.settled",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::FailPoint;

    #[test]
    fn each_has_a_name_of_its_own() {
        let names: BTreeSet<_> = FailPoint::ALL.iter().map(|point| point.name()).collect();
        assert_eq!(names.len(), FailPoint::ALL.len());
    }
}
