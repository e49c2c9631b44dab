//! The provider's API for requestors: each resource has its file, and its `router()`.
//!
//! Handlers parse, call the domain, and map what it says; who is calling reaches them as a
//! [`Renter`](caller::Renter), so that a route without one is public, and seen to be.

mod caller;
mod console;
mod error;
mod events;
mod info;
mod leases;
mod life;
mod vms;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::FromRef;
use axum::http::Method;
use golem_vm_node::http::{CallClass, HttpLimits};
use golem_vm_protocol::route;

use crate::rental::Rental;

pub use info::InfoSource;

/// What handlers work with.
#[derive(Clone)]
pub struct ApiState {
    /// Renting.
    pub rental: Rental,
    /// What the provider says about itself.
    pub info: Arc<InfoSource>,
    /// Whether unsigned requestors are served.
    pub allow_unsigned: bool,
}

impl FromRef<ApiState> for Rental {
    fn from_ref(state: &ApiState) -> Self {
        state.rental.clone()
    }
}

impl FromRef<ApiState> for Arc<InfoSource> {
    fn from_ref(state: &ApiState) -> Self {
        Arc::clone(&state.info)
    }
}

/// All routes.
pub fn router(state: ApiState) -> Router {
    let rented = vms::router()
        .merge(leases::router())
        .merge(life::router())
        .merge(console::router())
        .merge(events::router());
    #[cfg(feature = "fail-points")]
    let rented = rented.layer(axum::middleware::from_fn(marked));
    Router::new().merge(info::router()).merge(rented).with_state(state)
}

/// Marks the first and the last moment of each change that is asked for.
#[cfg(feature = "fail-points")]
async fn marked(
    request: axum::extract::Request,
    next: axum::middleware::Next,
) -> axum::response::Response {
    use crate::fail_point::{FailPoint, reached};

    if request.method() == Method::GET {
        return next.run(request).await;
    }
    reached(FailPoint::RequestAccepted);
    let reply = next.run(request).await;
    reached(FailPoint::RequestAnswered);
    reply
}

/// What a request costs: a create begins a machine, and so does a clone.
#[must_use]
pub fn class(method: &Method, path: &str) -> CallClass {
    match CallClass::of_method(method) {
        CallClass::Write if path == route::VMS => CallClass::Expensive,
        CallClass::Write if path.ends_with("/clone") => CallClass::Expensive,
        // Somebody types.
        CallClass::Write if path.ends_with("/console/input") => CallClass::Read,
        class => class,
    }
}

/// Deadlines: a create that is waited for takes as long as a VM may take to come up, and a
/// restart a stop on top.
#[must_use]
pub fn limits(launch_timeout: Duration) -> HttpLimits {
    HttpLimits {
        handler_timeout: launch_timeout + Duration::from_secs(90),
        // A create may bring a requestor's own cloud-init, which JSON writes longer than it is.
        max_body: 128 * 1024,
        ..HttpLimits::default()
    }
}
