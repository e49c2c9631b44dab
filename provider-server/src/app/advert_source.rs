//! What there is to advertise, gathered from all over the provider.

use std::net::SocketAddr;

use async_trait::async_trait;

use crate::advertise::{AdvertSource, Snapshot};
use crate::ports::{PortBoard, PublicAddress};
use crate::rental::Rental;
use crate::store::ProviderStore;
use crate::vm::repository::VmRepository as _;

/// What there is to advertise.
pub(super) struct WhatThereIs {
    pub(super) rental: Rental,
    pub(super) store: ProviderStore,
    pub(super) board: PortBoard,
    pub(super) address: PublicAddress,
    pub(super) api: SocketAddr,
}

#[async_trait]
impl AdvertSource for WhatThereIs {
    async fn snapshot(&self) -> Result<Snapshot, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let conditions = &self.rental.conditions;
        let records = self.rental.vms.all().await.map_err(|e| text(&e))?;
        let reserved = self.store.reserved().await.map_err(|e| text(&e))?;
        let (backends, images) = self.rental.what_there_is().await.map_err(|e| text(&e))?;
        let count = u32::try_from(records.len()).unwrap_or(u32::MAX);
        Ok(Snapshot {
            free: conditions.offered.less(reserved),
            backends,
            images,
            vms_left: conditions.max_vms.saturating_sub(count),
            address: self.address.current(),
            api_port: self.api.port(),
            ports: self.board.summary(records.iter().map(|record| record.ssh_port)),
        })
    }
}
