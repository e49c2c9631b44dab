//! The ports that lead to VMs, as the VMs' life needs them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use async_trait::async_trait;
use golem_vm_protocol::VmId;

/// Hands out routes from this host's access ports to VMs.
#[async_trait]
pub trait AccessPorts: Send + Sync + 'static {
    /// The ports that may be given to a new VM now: bound here, and verified where that is asked
    /// for. In rising order. Whether one of them is given away already is for the ledger to know.
    fn usable(&self) -> Vec<u16>;

    /// Leads `port` to `target`. Called again with another target, new connections go there.
    ///
    /// # Errors
    /// A sentence, when the forwarder can't be told. The route is remembered and told to it when
    /// it is back.
    async fn route(&self, port: u16, vm: VmId, target: SocketAddr) -> Result<(), String>;

    /// Ends the route of `port`; connections through it are closed.
    ///
    /// # Errors
    /// As for [`AccessPorts::route`].
    async fn unroute(&self, port: u16) -> Result<(), String>;

    /// For each port that leads somewhere, how long ago a byte of an SSH session last went through it, in
    /// either direction; since the route was made, if none did.
    ///
    /// # Errors
    /// A sentence, when the forwarder can't be asked: that says nothing about any VM.
    async fn quiet_for(&self) -> Result<BTreeMap<u16, Duration>, String>;
}
