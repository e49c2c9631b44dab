//! The running provider, over its control socket.

use std::path::PathBuf;
use std::time::Duration;

use golem_vm_node::client::{Call, ClientError};
use golem_vm_node::control::ControlClient;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::place::PlaceArgs;

/// No provider runs on that data directory.
#[derive(Debug, thiserror::Error)]
#[error(
    "no provider runs on {}; start it with 'golem-provider start', or name another data directory \
     with --data-dir",
    .0.display()
)]
pub(super) struct NotRunning(pub(super) PathBuf);

/// A running provider.
pub(super) struct Remote {
    client: ControlClient,
    /// Its data directory.
    pub(super) data: PathBuf,
}

impl Remote {
    /// The provider that runs on the data directory, if one does.
    pub(super) async fn find(place: &PlaceArgs) -> anyhow::Result<Option<Self>> {
        Self::at(place.data_path()?).await
    }

    /// The provider that runs on `data`, if one does.
    pub(super) async fn at(data: PathBuf) -> anyhow::Result<Option<Self>> {
        let client = ControlClient::connect(&data.join("control.sock")).await?;
        Ok(client.map(|client| Self { client, data }))
    }

    /// The provider that runs on the data directory.
    ///
    /// # Errors
    /// [`NotRunning`].
    pub(super) async fn require(place: &PlaceArgs) -> anyhow::Result<Self> {
        let data = place.data_path()?;
        Self::at(data.clone()).await?.ok_or_else(|| NotRunning(data).into())
    }

    /// Asks for something.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.call(Call::get(path)).await
    }

    /// Asks for something that takes a while, but no longer than `deadline`.
    pub(super) async fn get_within<T: DeserializeOwned>(
        &self,
        path: &str,
        deadline: Duration,
    ) -> Result<T, ClientError> {
        self.call(Call::get(path).timeout(deadline)).await
    }

    /// Has something done that takes no longer than `deadline`.
    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        deadline: Duration,
    ) -> Result<T, ClientError> {
        self.call(Call::post(path, body)?.timeout(deadline)).await
    }

    /// Removes something.
    pub(super) async fn delete(&self, path: &str, deadline: Duration) -> Result<(), ClientError> {
        self.call::<serde_json::Value>(Call::new(::http::Method::DELETE, path).timeout(deadline))
            .await
            .map(drop)
    }

    async fn call<T: DeserializeOwned>(&self, call: Call<'_>) -> Result<T, ClientError> {
        self.client.call(&call).await?.json()
    }
}
