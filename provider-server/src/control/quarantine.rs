//! Cuts one VM off from all network, and lets it back.

use golem_vm_node::http::ProblemResponse;
use golem_vm_protocol::ErrorCode;
use golem_vm_protocol::text::printable;

use super::messages::{Quarantine, VmLine};
use super::overview;
use super::running::Running;
use crate::vm::VmRecord;
use crate::vm::repository::VmRepository as _;

pub(super) async fn quarantine(
    running: &Running,
    wanted: &Quarantine,
) -> Result<VmLine, ProblemResponse> {
    let failed = |reason: String| ProblemResponse::new(ErrorCode::BackendFailed, reason);
    let record = find(running.rental.vms.all().await?, &wanted.vm)?;
    let backend = running.backends.of(record.terms.backend);
    let backend = backend.map_err(|error| failed(error.to_string()))?.backend;
    let guard = backend.traffic_guard().ok_or_else(|| {
        failed(format!("the backend {} can't cut a VM off", record.terms.backend))
    })?;
    if !guard.is_raised().await {
        let reason = "guests are not contained on this host, so none can be cut off: see \
                      'golem-provider doctor'";
        return Err(failed(reason.to_owned()));
    }
    // Written first: what is cut off stays so whatever happens now.
    let record = running.store.set_quarantined(record.id, wanted.cut_off).await?;
    guard.quarantine(record.id, wanted.cut_off).await.map_err(failed)?;
    tracing::warn!(vm = %record.id, cut_off = wanted.cut_off, "quarantine");
    Ok(overview::line(running, record))
}

fn find(records: Vec<VmRecord>, text: &str) -> Result<VmRecord, ProblemResponse> {
    let named = |record: &VmRecord| {
        record.id.to_string() == text
            || record.instance().to_string() == text
            || record.name.as_str() == text
    };
    let mut found = records.into_iter().filter(named);
    let shown = printable(text, 80);
    match (found.next(), found.next()) {
        (Some(record), None) => Ok(record),
        (Some(_), Some(_)) => Err(ProblemResponse::new(
            ErrorCode::ValidationFailed,
            format!("several VMs are called '{shown}': name one by its id (golem-provider status)"),
        )),
        (None, _) => Err(ProblemResponse::new(
            ErrorCode::NotFound,
            format!("there is no VM '{shown}'; 'golem-provider status' lists them"),
        )),
    }
}
