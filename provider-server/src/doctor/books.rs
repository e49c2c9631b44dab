//! Reads the books, and compares them with what the backend has.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::facts::InstanceFacts;
use crate::backend::{Backend, InstanceId};
use crate::orphans::{self, OrphanRegister as _};
use crate::store::ProviderStore;
use crate::vm::repository::VmRepository as _;
use crate::vm::{VmRecord, VmState};

/// Compares the instances of a backend with its VMs. Rows are read before and after the backend is asked, so that what just
/// comes or goes is neither missing nor too much.
pub(super) async fn compare(
    store: &ProviderStore,
    backend: &Arc<dyn Backend>,
    grace: Duration,
) -> Result<InstanceFacts, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let mut before = store.all().await.map_err(|error| text(&error))?;
    before.retain(|record| record.terms.backend == backend.kind());
    let there = orphans::in_time(backend.list()).await.map_err(|error| text(&error))?;
    let there: BTreeSet<InstanceId> = there.into_iter().collect();
    let mut missing = Vec::new();
    for record in before.iter().filter(|record| lacks_instance(record, &there)) {
        let now = store.get(record.id).await.map_err(|error| text(&error))?;
        if now.is_some_and(|record| lacks_instance(&record, &there)) {
            missing.push(format!("{} ({})", record.name, record.instance()));
        }
    }
    let without = orphans::look(&**backend, store).await.map_err(|error| text(&error))?;
    let noted = store.noted().await.map_err(|error| text(&error))?;
    let known_for = |instance: &InstanceId| {
        noted.iter().find(|orphan| orphan.instance == *instance).map(|orphan| orphan.known_for)
    };
    let orphans = without.into_iter().map(|instance| (instance, known_for(&instance))).collect();
    Ok(InstanceFacts { count: there.len(), orphans, missing, grace })
}

/// Whether a VM in this state has to have an instance, and has none.
fn lacks_instance(record: &VmRecord, there: &BTreeSet<InstanceId>) -> bool {
    let needs_one = matches!(
        record.state,
        VmState::Running | VmState::Stopped { .. } | VmState::Suspended | VmState::Retained { .. }
    );
    needs_one && !there.contains(&record.instance())
}
