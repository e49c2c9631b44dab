//! Suspending and resuming, snapshots, clones, other sizes, and consoles.

use axum::extract::{Path, State};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use golem_vm_node::http::{JsonBody, ProblemResponse};
use golem_vm_protocol::route;
use golem_vm_protocol::vm::{
    CloneVm, ConsoleInput, ConsoleLog, ConsoleTaken, CreateSnapshot, Owner, ResizeVm, Vm,
    VmSnapshots,
};

use super::ApiState;
use super::caller::Renter;
use super::vms::reference;
use crate::rental::Rental;
use crate::vm::VmError;

pub(super) fn router() -> Router<ApiState> {
    Router::new()
        .route(route::VM_SUSPEND, post(suspend))
        .route(route::VM_RESUME, post(suspend))
        .route(route::VM_SNAPSHOTS, get(snapshots).post(snapshot))
        .route(route::VM_SNAPSHOT, delete(change_snapshot))
        .route(route::VM_SNAPSHOT_RESTORE, post(change_snapshot))
        .route(route::VM_CLONE, post(clone))
        .route(route::VM_RESIZE, post(resize))
        .route(route::VM_CONSOLE, get(console))
        .route(route::VM_CONSOLE_STREAM, get(console_stream))
        .route(route::VM_CONSOLE_INPUT, post(console_input))
}

/// No backend of this version can do it.
async fn refused<T>(
    rental: &Rental,
    owner: Owner,
    name: &str,
    what: &'static str,
) -> Result<T, ProblemResponse> {
    let record = rental.vms.find(owner, reference(name)?).await?;
    let (name, backend) = (record.name.to_string(), record.terms.backend);
    Err(VmError::NotSupported { name, backend, what }.into())
}

async fn suspend(
    Renter(owner): Renter,
    State(rental): State<Rental>,
    Path(name): Path<String>,
) -> Result<Json<Vm>, ProblemResponse> {
    refused(&rental, owner, &name, "suspend and resume its VMs").await
}

async fn snapshots(
    Renter(owner): Renter,
    State(rental): State<Rental>,
    Path(name): Path<String>,
) -> Result<Json<VmSnapshots>, ProblemResponse> {
    refused(&rental, owner, &name, "make snapshots of its VMs").await
}

async fn snapshot(
    Renter(owner): Renter,
    State(rental): State<Rental>,
    Path(name): Path<String>,
    JsonBody(body): JsonBody<CreateSnapshot>,
) -> Result<Json<VmSnapshots>, ProblemResponse> {
    body.validate().map_err(VmError::Invalid)?;
    refused(&rental, owner, &name, "make snapshots of its VMs").await
}

async fn change_snapshot(
    Renter(owner): Renter,
    State(rental): State<Rental>,
    Path((name, _)): Path<(String, String)>,
) -> Result<Json<Vm>, ProblemResponse> {
    refused(&rental, owner, &name, "make snapshots of its VMs").await
}

async fn clone(
    Renter(owner): Renter,
    State(rental): State<Rental>,
    Path(name): Path<String>,
    JsonBody(body): JsonBody<CloneVm>,
) -> Result<Json<Vm>, ProblemResponse> {
    body.validate().map_err(VmError::Invalid)?;
    refused(&rental, owner, &name, "clone its VMs").await
}

async fn resize(
    Renter(owner): Renter,
    State(rental): State<Rental>,
    Path(name): Path<String>,
    JsonBody(body): JsonBody<ResizeVm>,
) -> Result<Json<Vm>, ProblemResponse> {
    body.validate().map_err(VmError::Invalid)?;
    refused(&rental, owner, &name, "resize its VMs").await
}

async fn console(
    Renter(owner): Renter,
    State(rental): State<Rental>,
    Path(name): Path<String>,
) -> Result<Json<ConsoleLog>, ProblemResponse> {
    refused(&rental, owner, &name, "show the consoles of its VMs").await
}

async fn console_stream(
    Renter(owner): Renter,
    State(rental): State<Rental>,
    Path(name): Path<String>,
) -> Result<Json<ConsoleLog>, ProblemResponse> {
    refused(&rental, owner, &name, "show the consoles of its VMs").await
}

async fn console_input(
    Renter(owner): Renter,
    State(rental): State<Rental>,
    Path(name): Path<String>,
    JsonBody(body): JsonBody<ConsoleInput>,
) -> Result<Json<ConsoleTaken>, ProblemResponse> {
    body.validate().map_err(VmError::Invalid)?;
    refused(&rental, owner, &name, "show the consoles of its VMs").await
}
