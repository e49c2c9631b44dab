//! What the provider asks of whatever contains a backend's guests.

use std::collections::BTreeSet;

use async_trait::async_trait;
use golem_vm_protocol::VmId;
use tokio_util::sync::CancellationToken;

/// Contains the traffic of one backend's guests, wherever its rules are: a table of the host's, or rules in
/// a network namespace of each guest.
#[async_trait]
pub trait TrafficGuard: Send + Sync {
    /// Contains guests from now on, with exactly these VMs cut off, those that run already included. Called
    /// once before the backend is told to start anything, on a host where guests can be contained. What is
    /// started later and is among them is cut off from its first moment.
    ///
    /// # Errors
    /// Why guests are not contained. None is started then.
    async fn raise(&self, quarantined: BTreeSet<VmId>) -> Result<(), String>;

    /// Whether it was raised: whether guests are contained here.
    async fn is_raised(&self) -> bool;

    /// Cuts a VM off from all network, or lets it back, whether it runs or not. The VM goes on running. Called
    /// again, it changes nothing. The caller remembers it for the next [`raise`](Self::raise).
    ///
    /// # Errors
    /// Why that was not done; then nothing has changed.
    async fn quarantine(&self, vm: VmId, cut_off: bool) -> Result<(), String>;

    /// Keeps guests contained until `token` ends it: what somebody else removed is put back, or the guest cut
    /// off. What can't be put right is logged and tried again; meanwhile no guest is started.
    async fn watch(&self, token: CancellationToken);

    /// Removes what contains guests, when there are none left. Does nothing if there is nothing.
    ///
    /// # Errors
    /// Why it is still there.
    async fn lower(&self) -> Result<(), String>;
}
