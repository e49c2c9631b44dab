//! `/api/v1/vms`: the owner's VMs, and nobody else's.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use golem_vm_node::http::{JsonBody, ProblemResponse, QueryParams};
use golem_vm_protocol::signature::IDEMPOTENCY_KEY;
use golem_vm_protocol::time::Timestamp;
use golem_vm_protocol::vm::{
    ChangeVmKeys, CreateVmRequest, Operation, Vm, VmAccess, VmAccessPending, VmKeys, VmStats,
};
use golem_vm_protocol::{FieldError, VmRef, route};
use serde::Deserialize;

use super::caller::Renter;
use super::{ApiState, InfoSource, wire};
use crate::rental::Rental;
use crate::vm::policy::Request;
use crate::vm::record::SSH_USER;
use crate::vm::{VmError, VmState};

/// Longest idempotency key in bytes.
const MAX_KEY_BYTES: usize = 255;

pub(super) fn router() -> Router<ApiState> {
    Router::new()
        .route(route::VMS, post(create).get(list))
        .route(route::VM, get(find).delete(destroy))
        .route(route::VM_ACCESS, get(access))
        .route(route::VM_START, post(start))
        .route(route::VM_STOP, post(stop))
        .route(route::VM_RESTART, post(restart))
        .route(route::VM_STATS, get(stats))
        .route(route::VM_KEYS, get(keys).post(change_keys))
        .route(route::VM_OPERATION, get(operation))
}

#[derive(Deserialize)]
pub(super) struct CreateQuery {
    #[serde(default)]
    pub(super) r#async: bool,
}

async fn create(
    Renter(owner): Renter,
    State(rental): State<Rental>,
    QueryParams(query): QueryParams<CreateQuery>,
    headers: HeaderMap,
    JsonBody(body): JsonBody<CreateVmRequest>,
) -> Result<Response, ProblemResponse> {
    let request = body.validate().map_err(VmError::Invalid)?;
    let key = idempotency_key(&headers)?;
    let operation = rental.create(owner, request, key).await?;
    if query.r#async {
        return Ok((StatusCode::ACCEPTED, Json(wire::accepted(operation))).into_response());
    }
    let record = rental.vms.wait_for(owner, operation).await?;
    Ok(Json(wire::vm(&rental, record)).into_response())
}

pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, VmError> {
    let Some(value) = headers.get(&IDEMPOTENCY_KEY) else { return Ok(None) };
    match value.to_str() {
        Ok(text) if (1..=MAX_KEY_BYTES).contains(&text.len()) => Ok(Some(text.to_owned())),
        _ => Err(VmError::Invalid(vec![FieldError::new(
            "header:idempotency-key",
            format!("it has to be 1 to {MAX_KEY_BYTES} printable ASCII characters"),
        )])),
    }
}

async fn list(
    Renter(owner): Renter,
    State(rental): State<Rental>,
) -> Result<Json<Vec<Vm>>, ProblemResponse> {
    let records = rental.vms.list(owner).await?;
    Ok(Json(records.into_iter().map(|record| wire::vm(&rental, record)).collect()))
}

/// A text that is neither an id nor a name is a VM that is not there.
pub(super) fn reference(text: &str) -> Result<VmRef, VmError> {
    text.parse().map_err(|_| VmError::NotFound(golem_vm_protocol::text::printable(text, 64)))
}

async fn find(
    Renter(owner): Renter,
    State(rental): State<Rental>,
    Path(name): Path<String>,
) -> Result<Json<Vm>, ProblemResponse> {
    let record = rental.vms.find(owner, reference(&name)?).await?;
    Ok(Json(wire::vm(&rental, record)))
}

async fn access(
    Renter(owner): Renter,
    State(rental): State<Rental>,
    State(info): State<Arc<InfoSource>>,
    Path(name): Path<String>,
) -> Result<Response, ProblemResponse> {
    let record = rental.vms.find(owner, reference(&name)?).await?;
    let (vm_id, multipass_name) = (record.public_id(), record.instance().to_string());
    if matches!(record.state, VmState::Creating | VmState::Failed { .. }) {
        let status = record.state.status();
        let pending = VmAccessPending { vm_id, multipass_name, status, ssh_port: None };
        return Ok((StatusCode::ACCEPTED, Json(pending)).into_response());
    }
    let access = VmAccess {
        ssh_host: info.public_host().unwrap_or_default(),
        ssh_port: record.ssh_port,
        vm_id,
        multipass_name,
        ssh_user: Some(SSH_USER.to_owned()),
        host_key: Some(record.host_key.public),
    };
    Ok(Json(access).into_response())
}

pub(super) async fn change(
    rental: &Rental,
    owner: golem_vm_protocol::vm::Owner,
    name: &str,
    request: Request,
) -> Result<Json<Vm>, ProblemResponse> {
    let vm = reference(name)?;
    let gone = || VmError::NotFound(name.to_owned());
    let record = rental.vms.request(owner, vm, request).await?.ok_or_else(gone)?;
    Ok(Json(wire::vm(rental, record)))
}

async fn start(
    Renter(owner): Renter,
    State(rental): State<Rental>,
    Path(name): Path<String>,
) -> Result<Json<Vm>, ProblemResponse> {
    change(&rental, owner, &name, Request::Start).await
}

async fn stop(
    Renter(owner): Renter,
    State(rental): State<Rental>,
    Path(name): Path<String>,
) -> Result<Json<Vm>, ProblemResponse> {
    change(&rental, owner, &name, Request::Stop).await
}

async fn restart(
    Renter(owner): Renter,
    State(rental): State<Rental>,
    Path(name): Path<String>,
) -> Result<Json<Vm>, ProblemResponse> {
    change(&rental, owner, &name, Request::Restart).await
}

#[derive(Deserialize)]
struct DestroyQuery {
    #[serde(default)]
    keep: bool,
}

/// Answers `null`, as the original does, and with the VM if that is kept.
async fn destroy(
    Renter(owner): Renter,
    State(rental): State<Rental>,
    Path(name): Path<String>,
    QueryParams(query): QueryParams<DestroyQuery>,
) -> Result<Json<Option<Vm>>, ProblemResponse> {
    if query.keep {
        let Json(kept) = change(&rental, owner, &name, Request::Retain).await?;
        return Ok(Json(Some(kept)));
    }
    rental.vms.request(owner, reference(&name)?, Request::Destroy).await?;
    Ok(Json(None))
}

async fn stats(
    Renter(owner): Renter,
    State(rental): State<Rental>,
    Path(name): Path<String>,
) -> Result<Json<VmStats>, ProblemResponse> {
    let record = rental.vms.find(owner, reference(&name)?).await?;
    let usage = rental.vms.usage(&record).await?;
    Ok(Json(VmStats {
        vm_id: record.public_id(),
        measured_at: Timestamp::from_unix_micros(
            i64::try_from(rental.clock.now_micros()).unwrap_or(i64::MAX),
        ),
        cpu_percent: usage.cpu_percent,
        memory_used_bytes: usage.memory_used_bytes,
        memory_limit_bytes: usage.memory_limit_bytes,
        processes: usage.processes,
        network_received_bytes: usage.network_received_bytes,
        network_sent_bytes: usage.network_sent_bytes,
        disk_used_bytes: usage.disk_used_bytes,
    }))
}

async fn keys(
    Renter(owner): Renter,
    State(rental): State<Rental>,
    Path(name): Path<String>,
) -> Result<Json<VmKeys>, ProblemResponse> {
    Ok(Json(wire::keys(rental.vms.find(owner, reference(&name)?).await?)))
}

async fn change_keys(
    Renter(owner): Renter,
    State(rental): State<Rental>,
    Path(name): Path<String>,
    JsonBody(body): JsonBody<ChangeVmKeys>,
) -> Result<Json<VmKeys>, ProblemResponse> {
    let vm = reference(&name)?;
    let change = body.validate().map_err(VmError::Invalid)?;
    Ok(Json(wire::keys(rental.vms.change_keys(owner, vm, change).await?)))
}

async fn operation(
    Renter(owner): Renter,
    State(rental): State<Rental>,
    Path(id): Path<String>,
) -> Result<Json<Operation>, ProblemResponse> {
    Ok(Json(wire::operation(rental.vms.operation(owner, id).await?)))
}
