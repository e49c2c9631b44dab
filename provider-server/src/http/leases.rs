//! For how long a VM is rented, and how it is had back.

use std::time::Duration;

use axum::extract::{Path, State};
use axum::routing::post;
use axum::{Json, Router};
use golem_vm_node::http::{JsonBody, ProblemResponse};
use golem_vm_protocol::route;
use golem_vm_protocol::vm::{ExtendLease, UndeleteVm, Vm};

use super::caller::Renter;
use super::vms::reference;
use super::{ApiState, wire};
use crate::rental::Rental;
use crate::vm::VmError;

pub(super) fn router() -> Router<ApiState> {
    Router::new().route(route::VM_EXTEND, post(extend)).route(route::VM_UNDELETE, post(undelete))
}

async fn extend(
    Renter(owner): Renter,
    State(rental): State<Rental>,
    Path(name): Path<String>,
    JsonBody(body): JsonBody<ExtendLease>,
) -> Result<Json<Vm>, ProblemResponse> {
    let record = rental.extend(owner, reference(&name)?, body.expires_at).await?;
    Ok(Json(wire::vm(&rental, record)))
}

async fn undelete(
    Renter(owner): Renter,
    State(rental): State<Rental>,
    Path(name): Path<String>,
    JsonBody(body): JsonBody<UndeleteVm>,
) -> Result<Json<Vm>, ProblemResponse> {
    body.validate().map_err(VmError::Invalid)?;
    let lasting = body.duration_seconds.map(Duration::from_secs);
    let record = rental.undelete(owner, reference(&name)?, lasting).await?;
    Ok(Json(wire::vm(&rental, record)))
}
