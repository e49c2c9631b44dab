//! The routes of the control socket.

use std::sync::Arc;

use axum::extract::{FromRef, Path, State};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use golem_vm_node::http::{JsonBody, ProblemResponse, QueryParams};
use golem_vm_protocol::provider::Summary;
use golem_vm_protocol::{ErrorCode, route};
use serde::Deserialize;

use super::jobs::Jobs;
use super::messages::{
    self, BuildImage, Check, EventsQuery, ImageQuery, ImportImage, JobProgress, JobStarted,
    OwnerEvents, PullImage, Purged, Quarantine, Status, VmLine,
};
use super::running::Running;
use super::{events, overview, purge, quarantine};
use crate::backend::BackendError;
use crate::images::{ImageError, ImageInfo};

#[derive(Clone)]
struct ControlState {
    running: Arc<Running>,
    jobs: Jobs,
}

impl FromRef<ControlState> for Arc<Running> {
    fn from_ref(state: &ControlState) -> Self {
        Arc::clone(&state.running)
    }
}

impl FromRef<ControlState> for Jobs {
    fn from_ref(state: &ControlState) -> Self {
        state.jobs.clone()
    }
}

/// All routes of the control socket.
pub fn router(running: Arc<Running>) -> Router {
    Router::new()
        .route(messages::STATUS, get(status))
        .route(route::SUMMARY, get(summary))
        .route(messages::DOCTOR, get(doctor))
        .route(messages::IMAGES, get(images))
        .route(messages::BUILD_IMAGE, post(build_image))
        .route(messages::PULL_IMAGE, post(pull_image))
        .route(messages::IMPORT_IMAGE, post(import_image))
        .route(messages::VERIFY_IMAGE, post(verify_image))
        .route(messages::IMAGE, delete(remove_image))
        .route(messages::JOB, get(job).delete(cancel_job))
        .route(messages::QUARANTINE, post(quarantine_vm))
        .route(messages::EVENTS, get(vm_events))
        .route(messages::VERIFY_PORTS, post(verify_ports))
        .route(messages::STOP, post(stop))
        .route(messages::PURGE, post(purge_all))
        .with_state(ControlState { running, jobs: Jobs::default() })
}

async fn status(State(running): State<Arc<Running>>) -> Result<Json<Status>, ProblemResponse> {
    Ok(Json(overview::status(&running).await?))
}

async fn doctor(State(running): State<Arc<Running>>) -> Result<Json<Vec<Check>>, ProblemResponse> {
    Ok(Json(overview::checks(&running).await?))
}

async fn summary(State(running): State<Arc<Running>>) -> Result<Json<Summary>, ProblemResponse> {
    Ok(Json(overview::summary(&running).await?))
}

async fn images(
    State(running): State<Arc<Running>>,
) -> Result<Json<Vec<ImageInfo>>, ProblemResponse> {
    let list = running.rental.images.list().await;
    Ok(Json(list.map_err(|error| ProblemResponse::internal(&error))?))
}

async fn build_image(
    State(running): State<Arc<Running>>,
    State(jobs): State<Jobs>,
    JsonBody(body): JsonBody<BuildImage>,
) -> Json<JobStarted> {
    let catalog = running.rental.images.clone();
    let job =
        jobs.begin(|lines| async move { catalog.build(&body.name, body.backend, lines).await });
    Json(JobStarted { job })
}

async fn pull_image(
    State(running): State<Arc<Running>>,
    State(jobs): State<Jobs>,
    JsonBody(body): JsonBody<PullImage>,
) -> Json<JobStarted> {
    let catalog = running.rental.images.clone();
    let job = jobs.begin(|lines| async move {
        let PullImage { reference, name, checksum, backend } = body;
        catalog.pull(&reference, checksum, name.as_deref(), backend, lines).await
    });
    Json(JobStarted { job })
}

async fn import_image(
    State(running): State<Arc<Running>>,
    State(jobs): State<Jobs>,
    JsonBody(body): JsonBody<ImportImage>,
) -> Json<JobStarted> {
    let catalog = running.rental.images.clone();
    let job = jobs.begin(|lines| async move {
        catalog.import(&body.file, body.name.as_deref(), body.backend, lines).await
    });
    Json(JobStarted { job })
}

async fn verify_image(
    State(running): State<Arc<Running>>,
    State(jobs): State<Jobs>,
    Path(name): Path<String>,
    QueryParams(query): QueryParams<ImageQuery>,
) -> Json<JobStarted> {
    let catalog = running.rental.images.clone();
    let job = jobs.begin(|_lines| async move { catalog.verify(&name, query.backend).await });
    Json(JobStarted { job })
}

async fn remove_image(
    State(running): State<Arc<Running>>,
    Path(name): Path<String>,
    QueryParams(query): QueryParams<ImageQuery>,
) -> Result<Json<()>, ProblemResponse> {
    running.rental.images.remove(&name, query.backend).await?;
    Ok(Json(()))
}

impl From<ImageError> for ProblemResponse {
    fn from(error: ImageError) -> Self {
        match &error {
            ImageError::Unknown(_) => Self::new(ErrorCode::NotFound, error.to_string()),
            ImageError::Name(_) | ImageError::Several { .. } => {
                Self::new(ErrorCode::ValidationFailed, error.to_string())
            }
            ImageError::Backend(BackendError::Unavailable(_)) => {
                Self::new(ErrorCode::BackendUnavailable, error.to_string())
            }
            ImageError::Backend(_) => Self::new(ErrorCode::BackendFailed, error.to_string()),
            ImageError::Store(_) => Self::internal(&error),
        }
    }
}

#[derive(Deserialize)]
struct FromLine {
    #[serde(default)]
    from: usize,
}

fn no_such_job() -> ProblemResponse {
    ProblemResponse::new(
        ErrorCode::NotFound,
        "there is no such job: it ended long ago, or the provider was restarted",
    )
}

async fn job(
    State(jobs): State<Jobs>,
    Path(id): Path<u64>,
    QueryParams(query): QueryParams<FromLine>,
) -> Result<Json<JobProgress>, ProblemResponse> {
    jobs.progress(id, query.from).map(Json).ok_or_else(no_such_job)
}

async fn cancel_job(
    State(jobs): State<Jobs>,
    Path(id): Path<u64>,
) -> Result<Json<()>, ProblemResponse> {
    if jobs.cancel(id) { Ok(Json(())) } else { Err(no_such_job()) }
}

async fn quarantine_vm(
    State(running): State<Arc<Running>>,
    JsonBody(body): JsonBody<Quarantine>,
) -> Result<Json<VmLine>, ProblemResponse> {
    Ok(Json(quarantine::quarantine(&running, &body).await?))
}

async fn vm_events(
    State(running): State<Arc<Running>>,
    QueryParams(query): QueryParams<EventsQuery>,
) -> Result<Json<OwnerEvents>, ProblemResponse> {
    Ok(Json(events::events(&running, &query).await?))
}

async fn verify_ports(State(running): State<Arc<Running>>) -> Json<()> {
    running.verifier.check().await;
    Json(())
}

async fn stop(State(running): State<Arc<Running>>) -> Json<()> {
    tracing::info!("asked to stop; VMs and the forwarder go on");
    running.shutdown.cancel();
    Json(())
}

async fn purge_all(State(running): State<Arc<Running>>) -> Json<Purged> {
    Json(purge::purge(&running).await)
}
