//! A VM's serial console: its log, and speaking with it.

use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use golem_vm_node::http::{EventSink, EventStream, JsonBody, ProblemResponse};
use golem_vm_protocol::route;
use golem_vm_protocol::vm::{Bytes, ConsoleInput, ConsoleLog, ConsoleOutput, ConsoleTaken};

use super::ApiState;
use super::caller::Renter;
use super::vms::reference;
use crate::rental::Rental;
use crate::vm::VmError;
use crate::vm::console::ConsoleReader;

pub(super) fn router() -> Router<ApiState> {
    Router::new()
        .route(route::VM_CONSOLE, get(log))
        .route(route::VM_CONSOLE_STREAM, get(stream))
        .route(route::VM_CONSOLE_INPUT, post(input))
}

async fn log(
    Renter(owner): Renter,
    State(rental): State<Rental>,
    Path(name): Path<String>,
) -> Result<Json<ConsoleLog>, ProblemResponse> {
    let record = rental.vms.find(owner, reference(&name)?).await?;
    let tail = rental.vms.console_log(&record).await?;
    let (vm_id, truncated) = (record.public_id(), tail.truncated);
    Ok(Json(ConsoleLog { vm_id, data: Bytes(tail.data), truncated }))
}

/// Whoever reads the stream.
struct Reader {
    sink: EventSink,
    number: AtomicU64,
}

#[async_trait]
impl ConsoleReader for Reader {
    async fn ready(&self) -> bool {
        self.sink.ready().await.is_ok()
    }

    async fn tell(&self, data: Vec<u8>, skipped: u64, ended: Option<&str>) -> bool {
        let piece = ConsoleOutput {
            nonce: self.sink.nonce().to_owned(),
            number: self.number.fetch_add(1, Ordering::Relaxed),
            data: Bytes(data),
            skipped,
            ended: ended.map(str::to_owned),
        };
        self.sink.send_console(&piece).await.is_ok()
    }
}

async fn stream(
    Renter(owner): Renter,
    State(rental): State<Rental>,
    Path(name): Path<String>,
    stream: EventStream,
) -> Result<Response, ProblemResponse> {
    let record = rental.vms.find(owner, reference(&name)?).await?;
    let (console, guest) = rental.vms.open_console(&record, stream.nonce()).await?;
    Ok(stream.answer(move |sink| async move {
        let reader = Reader { sink, number: AtomicU64::new(1) };
        console.carry(guest, &reader).await;
    }))
}

async fn input(
    Renter(owner): Renter,
    State(rental): State<Rental>,
    Path(name): Path<String>,
    JsonBody(body): JsonBody<ConsoleInput>,
) -> Result<Json<ConsoleTaken>, ProblemResponse> {
    let record = rental.vms.find(owner, reference(&name)?).await?;
    body.validate().map_err(VmError::Invalid)?;
    let ConsoleInput { session, number, data } = body;
    let number = rental.vms.type_in(&record, &session, number, data.0).await?;
    Ok(Json(ConsoleTaken { number }))
}
