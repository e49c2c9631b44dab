//! Suspending and resuming, snapshots, clones, and other sizes.

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use golem_vm_node::http::{JsonBody, ProblemResponse, QueryParams};
use golem_vm_protocol::vm::{
    CloneVm, CreateSnapshot, Owner, ResizeVm, SnapshotName, Vm, VmSnapshots,
};
use golem_vm_protocol::{VmRef, route};

use super::caller::Renter;
use super::vms::{CreateQuery, change, idempotency_key, reference};
use super::{ApiState, wire};
use crate::rental::Rental;
use crate::vm::VmError;
use crate::vm::policy::Request;
use crate::vm::snapshot::{SnapshotRecord, SnapshotWanted};

pub(super) fn router() -> Router<ApiState> {
    Router::new()
        .route(route::VM_SUSPEND, post(suspend))
        .route(route::VM_RESUME, post(resume))
        .route(route::VM_SNAPSHOTS, get(snapshots).post(snapshot))
        .route(route::VM_SNAPSHOT, delete(remove_snapshot))
        .route(route::VM_SNAPSHOT_RESTORE, post(restore))
        .route(route::VM_CLONE, post(clone))
        .route(route::VM_RESIZE, post(resize))
}

async fn suspend(
    Renter(owner): Renter,
    State(rental): State<Rental>,
    Path(name): Path<String>,
) -> Result<Json<Vm>, ProblemResponse> {
    let offered = rental.conditions.offered;
    let record = rental.vms.suspend(owner, reference(&name)?, offered).await?;
    Ok(Json(wire::vm(&rental, record)))
}

async fn resume(
    Renter(owner): Renter,
    State(rental): State<Rental>,
    Path(name): Path<String>,
) -> Result<Json<Vm>, ProblemResponse> {
    change(&rental, owner, &name, Request::Resume).await
}

async fn listed(
    rental: &Rental,
    owner: Owner,
    name: &str,
) -> Result<Json<VmSnapshots>, ProblemResponse> {
    let (record, snapshots) = rental.vms.snapshots(owner, reference(name)?).await?;
    let snapshots = snapshots.iter().map(SnapshotRecord::to_wire).collect();
    Ok(Json(VmSnapshots { vm_id: record.public_id(), snapshots }))
}

async fn snapshots(
    Renter(owner): Renter,
    State(rental): State<Rental>,
    Path(name): Path<String>,
) -> Result<Json<VmSnapshots>, ProblemResponse> {
    listed(&rental, owner, &name).await
}

async fn snapshot(
    Renter(owner): Renter,
    State(rental): State<Rental>,
    Path(name): Path<String>,
    headers: HeaderMap,
    JsonBody(body): JsonBody<CreateSnapshot>,
) -> Result<Json<VmSnapshots>, ProblemResponse> {
    let vm = reference(&name)?;
    let wanted = body.validate().map_err(VmError::Invalid)?;
    let wanted = SnapshotWanted { name: wanted, key: idempotency_key(&headers)? };
    rental.vms.snapshot(owner, vm, wanted, rental.conditions.offered).await?;
    listed(&rental, owner, &name).await
}

/// The VM and the snapshot of it that a path names.
async fn named(
    rental: &Rental,
    owner: Owner,
    name: &str,
    snapshot: &str,
) -> Result<(VmRef, SnapshotName), ProblemResponse> {
    let vm = reference(name)?;
    // A text that is no name is a snapshot that is not there; but first of all the VM has to be the caller's.
    let record = rental.vms.find(owner, vm.clone()).await?;
    let snapshot = wire::snapshot_name(&record, snapshot)?;
    Ok((vm, snapshot))
}

async fn remove_snapshot(
    Renter(owner): Renter,
    State(rental): State<Rental>,
    Path((name, snapshot)): Path<(String, String)>,
) -> Result<Json<Vm>, ProblemResponse> {
    let (vm, snapshot) = named(&rental, owner, &name, &snapshot).await?;
    let record = rental.vms.remove_snapshot(owner, vm, snapshot).await?;
    Ok(Json(wire::vm(&rental, record)))
}

async fn restore(
    Renter(owner): Renter,
    State(rental): State<Rental>,
    Path((name, snapshot)): Path<(String, String)>,
) -> Result<Json<Vm>, ProblemResponse> {
    let (vm, snapshot) = named(&rental, owner, &name, &snapshot).await?;
    let record = rental.vms.restore(owner, vm, snapshot).await?;
    Ok(Json(wire::vm(&rental, record)))
}

async fn clone(
    Renter(owner): Renter,
    State(rental): State<Rental>,
    Path(name): Path<String>,
    QueryParams(query): QueryParams<CreateQuery>,
    headers: HeaderMap,
    JsonBody(body): JsonBody<CloneVm>,
) -> Result<Response, ProblemResponse> {
    let source = reference(&name)?;
    let wanted = body.validate().map_err(VmError::Invalid)?;
    let key = idempotency_key(&headers)?;
    let operation = rental.clone_vm(owner, source, wanted, key).await?;
    if query.r#async {
        return Ok((StatusCode::ACCEPTED, Json(wire::accepted(operation))).into_response());
    }
    let record = rental.vms.wait_for(owner, operation).await?;
    Ok(Json(wire::vm(&rental, record)).into_response())
}

async fn resize(
    Renter(owner): Renter,
    State(rental): State<Rental>,
    Path(name): Path<String>,
    JsonBody(body): JsonBody<ResizeVm>,
) -> Result<Json<Vm>, ProblemResponse> {
    let vm = reference(&name)?;
    let size = body.validate().map_err(VmError::Invalid)?;
    let record = rental.vms.resize(owner, vm, size, rental.conditions.offered).await?;
    Ok(Json(wire::vm(&rental, record)))
}
