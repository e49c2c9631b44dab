//! What happened to a VM, and what happens to it now.

use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;
use axum::routing::get;
use axum::{Json, Router};
use golem_vm_node::http::{EventSink, EventStream, ProblemResponse, QueryParams};
use golem_vm_protocol::vm::{Owner, VmEvents, VmStage, event_number};
use golem_vm_protocol::{FieldError, VmRef, route};
use serde::Deserialize;

use super::ApiState;
use super::caller::Renter;
use super::vms::reference;
use crate::rental::Rental;
use crate::vm::history::EventRecord;
use crate::vm::{VmError, VmManager};

/// Events in one answer, unless its caller says otherwise.
const USUAL_LIMIT: u32 = 200;
/// Most events in one answer.
const MAX_LIMIT: u32 = 1000;
/// What a reader of server-sent events sends that was cut off.
const LAST_EVENT_ID: &str = "last-event-id";

pub(super) fn router() -> Router<ApiState> {
    Router::new().route(route::VM_EVENTS, get(events)).route(route::VM_EVENT_STREAM, get(stream))
}

#[derive(Deserialize)]
struct EventsQuery {
    after: Option<String>,
    limit: Option<u32>,
}

fn after(pointer: &str, text: &str) -> Result<u64, VmError> {
    event_number(text).ok_or_else(|| {
        let field = FieldError::new(pointer, "the number of an event: digits, at most 2^53 - 1");
        VmError::Invalid(vec![field])
    })
}

async fn events(
    Renter(owner): Renter,
    State(rental): State<Rental>,
    Path(name): Path<String>,
    QueryParams(query): QueryParams<EventsQuery>,
) -> Result<Json<VmEvents>, ProblemResponse> {
    let after = query.after.as_deref().map_or(Ok(0), |text| after("?after", text))?;
    let limit = query.limit.unwrap_or(USUAL_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        let field = FieldError::new("?limit", format!("{limit} is not 1 to {MAX_LIMIT}"));
        return Err(VmError::Invalid(vec![field]).into());
    }
    // One more shows whether there is more.
    let mut records = told(&rental.vms, owner, reference(&name)?, after, limit + 1).await?;
    let more = records.len() > limit as usize;
    records.truncate(limit as usize);
    let events: Vec<_> = records.iter().map(EventRecord::to_wire).collect();
    let next = events.last().filter(|_| more).map(|event| event.number);
    Ok(Json(VmEvents { events, next }))
}

/// The events of one of the owner's VMs; none of one that an earlier release made, before anything
/// happened to it again.
async fn told(
    vms: &VmManager,
    owner: Owner,
    vm: VmRef,
    after: u64,
    limit: u32,
) -> Result<Vec<EventRecord>, VmError> {
    match vms.events(owner, vm.clone(), after, limit).await {
        Err(VmError::NotFound(_)) => vms.find(owner, vm).await.map(|_| Vec::new()),
        told => told,
    }
}

#[derive(Deserialize)]
struct StreamQuery {
    after: Option<String>,
}

async fn stream(
    Renter(owner): Renter,
    State(rental): State<Rental>,
    Path(name): Path<String>,
    QueryParams(query): QueryParams<StreamQuery>,
    headers: HeaderMap,
    stream: EventStream,
) -> Result<Response, ProblemResponse> {
    let vms = rental.vms;
    let after = match (query.after, headers.get(LAST_EVENT_ID)) {
        // The header is not signed: what is wins.
        (Some(text), _) => after("?after", &text)?,
        (None, Some(value)) => after("header:last-event-id", value.to_str().unwrap_or_default())?,
        (None, None) => 0,
    };
    // By its id from here on: another VM may get the name.
    let vm = reference(&name)?;
    let first = told(&vms, owner, vm.clone(), 0, 1).await?;
    let id = match first.first() {
        Some(event) => event.vm,
        None => vms.find(owner, vm).await?.id,
    };
    Ok(stream.answer(move |sink| async move {
        if let Err(error) = tell(&vms, owner, id.into(), after, &sink).await {
            tracing::warn!("the stream of what happens to {id} ends: {error}");
        }
    }))
}

/// Tells what happened to the VM, and then what happens, until its last event or until nobody reads it.
async fn tell(
    vms: &VmManager,
    owner: Owner,
    vm: VmRef,
    mut after: u64,
    sink: &EventSink,
) -> Result<(), VmError> {
    let mut changes = vms.changes();
    loop {
        changes.mark_unchanged();
        let records = told(vms, owner, vm.clone(), after, USUAL_LIMIT).await?;
        let all = records.len() < USUAL_LIMIT as usize;
        for record in records {
            if sink.send(&record.to_wire()).await.is_err()
                || matches!(record.to, VmStage::Destroyed | VmStage::Failed)
            {
                return Ok(());
            }
            after = record.number;
        }
        if all && changes.changed().await.is_err() {
            return Ok(());
        }
    }
}
