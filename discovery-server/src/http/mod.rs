//! The registry over HTTP.

mod advertisements;
mod problem;

use std::sync::Arc;

use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router, middleware};
use golem_vm_node::http::CallClass;
use golem_vm_protocol::provider::Health;
use golem_vm_protocol::route;
use http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS};
use http::{HeaderValue, Method};

use crate::registry::Registry;

/// The reply's headers that a page of another origin may read.
const EXPOSED: &str = "golem-next-cursor, ratelimit, ratelimit-policy, retry-after";

/// What the handlers share.
#[derive(Debug, Clone)]
pub struct Api {
    /// The registry.
    pub registry: Arc<Registry>,
    /// Whether unsigned providers are served.
    pub allow_unsigned: bool,
}

/// Every route of the service.
pub fn router(api: Api) -> Router {
    Router::new()
        .route(route::HEALTH, get(health))
        .merge(advertisements::router())
        .layer(middleware::map_response(readable_from_browsers))
        .with_state(api)
}

/// What a request costs here: a search may send two megabytes.
#[must_use]
pub fn class(method: &Method, path: &str) -> CallClass {
    match CallClass::of_method(method) {
        CallClass::Read if path == route::ADVERTISEMENTS => CallClass::Expensive,
        class => class,
    }
}

async fn health() -> Response {
    Json(Health { status: "healthy".to_owned() }).into_response()
}

/// Pages of any origin may read, as in the original. They can't publish: that takes headers for
/// which a browser asks first, and there is no answer to that question here.
async fn readable_from_browsers(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    let exposed = HeaderValue::from_static(EXPOSED);
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
    response
}
