//! What the provider says about itself; public.

use std::sync::Arc;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use golem_vm_node::http::ProblemResponse;
use golem_vm_protocol::provider::{Health, ProviderInfo, ZERO_ADDRESS};
use golem_vm_protocol::{KeyId, route};
use tokio::sync::watch;

use super::ApiState;
use crate::rental::Rental;
use crate::vm::VmError;

/// What there is to say.
#[derive(Debug)]
pub struct InfoSource {
    /// The provider's key.
    pub id: KeyId,
    /// Its label.
    pub name: String,
    /// Its country.
    pub country: String,
    /// Its public address, once known.
    pub address: watch::Receiver<Option<String>>,
}

impl InfoSource {
    /// The host that requestors connect to, as far as it is known.
    #[must_use]
    pub fn public_host(&self) -> Option<String> {
        self.address.borrow().clone()
    }
}

pub(super) fn router() -> Router<ApiState> {
    Router::new().route(route::HEALTH, get(health)).route(route::PROVIDER_INFO, get(info))
}

async fn health() -> Json<Health> {
    Json(Health { status: "healthy".to_owned() })
}

async fn info(
    State(source): State<Arc<InfoSource>>,
    State(rental): State<Rental>,
) -> Result<Json<ProviderInfo>, ProblemResponse> {
    let offers = rental.offers().await.map_err(VmError::from)?;
    Ok(Json(ProviderInfo {
        offers,
        lease: Some(rental.conditions.leases.terms()),
        provider_id: source.id.to_string(),
        stream_payment_address: ZERO_ADDRESS.to_owned(),
        glm_token_address: ZERO_ADDRESS.to_owned(),
        ip_address: source.public_host().unwrap_or_default(),
        country: source.country.clone(),
        platform: std::env::consts::ARCH.to_owned(),
        name: Some(source.name.clone()),
        version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        trusted_only: rental.conditions.open_to_strangers().is_err(),
    }))
}
