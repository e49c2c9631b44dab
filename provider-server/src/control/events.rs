//! What happened to everybody's VMs, for the provider's owner.

use std::time::Duration;

use golem_vm_node::http::ProblemResponse;
use golem_vm_protocol::text::printable;
use golem_vm_protocol::{FieldError, Problem, VmRef};

use super::messages::{EventsQuery, OwnerEvent, OwnerEvents};
use super::running::Running;
use crate::vm::VmError;
use crate::vm::history::EventRecord;
use crate::vm::record::OwnerColumn;
use crate::vm::repository::VmRepository;

/// Most events in one answer.
pub const MAX_LIMIT: u32 = 1000;
/// Longest wait for one.
const MAX_WAIT: Duration = Duration::from_secs(20);

impl OwnerEvent {
    fn of(record: &EventRecord) -> Self {
        Self {
            id: record.id,
            vm: record.vm.to_string(),
            name: record.vm_name.clone(),
            owner: OwnerColumn(record.owner).to_string(),
            event: record.to_wire(),
        }
    }
}

/// What is asked for, as it is now.
///
/// # Errors
/// [`VmError::Invalid`] when the query makes no sense; when the repository can't be read.
pub async fn read(
    repository: &impl VmRepository,
    query: &EventsQuery,
) -> Result<Vec<OwnerEvent>, VmError> {
    let wrong =
        |pointer: &str, detail: String| VmError::Invalid(vec![FieldError::new(pointer, detail)]);
    let vm = query.vm.as_ref().map(|text| text.parse::<VmRef>()).transpose();
    let vm = vm.map_err(|error| {
        let shown = printable(query.vm.as_deref().unwrap_or_default(), 80);
        wrong("?vm", format!("'{shown}' is neither the id nor the name of a VM: {error}"))
    })?;
    let limit = query.limit;
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(wrong("?limit", format!("{limit} is not 1 to {MAX_LIMIT}")));
    }
    let records = match query.after {
        Some(after) => repository.all_events(vm, after, limit).await?,
        None => repository.last_events(vm, limit).await?,
    };
    Ok(records.iter().map(OwnerEvent::of).collect())
}

/// What is asked for; waits for it as long as it is asked to.
pub(super) async fn events(
    running: &Running,
    query: &EventsQuery,
) -> Result<OwnerEvents, ProblemResponse> {
    let wait = Duration::from_secs(query.wait_seconds).min(MAX_WAIT);
    let over = tokio::time::sleep(wait);
    tokio::pin!(over);
    let mut changes = running.rental.vms.changes();
    loop {
        changes.mark_unchanged();
        let events = read(&running.store, query).await.map_err(|error| match error {
            VmError::Invalid(fields) => Problem::validation(fields).into(),
            error => ProblemResponse::internal(&error),
        })?;
        if !events.is_empty() || wait.is_zero() {
            return Ok(OwnerEvents { events });
        }
        tokio::select! {
            () = over.as_mut() => return Ok(OwnerEvents { events }),
            () = running.shutdown.cancelled() => return Ok(OwnerEvents { events }),
            changed = changes.changed() => if changed.is_err() {
                return Ok(OwnerEvents { events });
            }
        }
    }
}
