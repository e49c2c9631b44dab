//! The rules of guests' networks: each in the namespace of its machine, kept up as the host's networks change.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use golem_vm_machine::network::host::{self, Changes};
use golem_vm_protocol::VmId;
use tokio_util::sync::CancellationToken;

use super::{QemuBackend, spec};
use crate::backend::InstanceId;
use crate::containment::TrafficGuard;

/// How often the rules are renewed when nothing is known to have changed.
const RENEWED: Duration = Duration::from_secs(300);

/// Whether guests are contained.
#[derive(Debug, Default)]
pub(super) struct State(AtomicBool);

#[async_trait]
impl TrafficGuard for QemuBackend {
    async fn raise(&self, quarantined: BTreeSet<VmId>) -> Result<(), String> {
        let names = quarantined.into_iter().filter_map(|vm| spec::name(InstanceId::of(vm)).ok());
        self.machines.cut_off(names.collect()).await.map_err(|error| error.to_string())?;
        self.guard.0.store(true, Ordering::Release);
        Ok(())
    }

    async fn is_raised(&self) -> bool {
        self.guard.0.load(Ordering::Acquire)
    }

    async fn quarantine(&self, vm: VmId, cut_off: bool) -> Result<(), String> {
        let name = spec::name(InstanceId::of(vm)).map_err(|error| error.to_string())?;
        self.machines.set_cut_off(&name, cut_off).await.map_err(|error| error.to_string())
    }

    /// Nobody else reaches the namespaces; what changes is what the host is connected to.
    async fn watch(&self, token: CancellationToken) {
        let mut changes = Changes::listen()
            .inspect_err(|error| tracing::warn!("changes of this host's networks: {error}"))
            .ok();
        let mut known = None;
        loop {
            let changed = async {
                match &mut changes {
                    Some(changes) => changes.next().await,
                    None => std::future::pending().await,
                }
            };
            let anyhow = tokio::select! {
                () = token.cancelled() => return,
                () = tokio::time::sleep(RENEWED) => true,
                told = changed => {
                    if told.is_none() { changes = None }
                    false
                }
            };
            // Interfaces and rules come and go all day where there is an engine; seldom does it matter here.
            let networks = host::networks().await.ok();
            if !anyhow && networks.is_some() && networks == known {
                continue;
            }
            known = networks;
            if let Err(error) = self.machines.renew_rules().await {
                tracing::error!("{error}; this is tried again");
                known = None;
            }
        }
    }

    /// The rules end with the machines.
    async fn lower(&self) -> Result<(), String> {
        self.guard.0.store(false, Ordering::Release);
        Ok(())
    }
}
