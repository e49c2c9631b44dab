//! One discovery server, as the advertiser needs it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use golem_vm_node::client::{Call, ClientError, Reply, SignedClient, Target};
use golem_vm_protocol::advertisement::OBSERVED_ADDRESS_HEADER;
use golem_vm_protocol::document::Envelope;
use golem_vm_protocol::{ErrorCode, route};
use http::Method;

/// Time for one call.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);

/// It was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// The address that this provider's request came from, if the server says so.
    pub observed: Option<IpAddr>,
}

/// Why it was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DiscoveryError {
    /// A document of this key with that sequence or a higher one is known there: the provider's
    /// database was lost, or came from a backup.
    #[error("{message}")]
    NotNewer {
        /// The highest sequence that is known there, if it says so.
        known: Option<u64>,
        /// Its words.
        message: String,
    },
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

/// A discovery server.
#[async_trait]
pub trait Discovery: Send + Sync + 'static {
    /// Its address, as set.
    fn url(&self) -> &str;

    /// Publishes a document in the place of the one before.
    async fn publish(&self, document: &Envelope) -> Result<Taken, DiscoveryError>;

    /// Takes what is published off the list. Does nothing if nothing is.
    async fn withdraw(&self) -> Result<Taken, DiscoveryError>;

    /// Asks for something harmless, to learn this provider's address.
    async fn look(&self) -> Result<Taken, DiscoveryError>;
}

/// A discovery server over HTTP.
#[derive(Debug, Clone)]
pub struct HttpDiscovery {
    url: String,
    target: Target,
    own_path: String,
    client: SignedClient,
}

impl HttpDiscovery {
    /// The server at `url`.
    ///
    /// # Errors
    /// When the URL is none.
    pub fn new(url: &str, client: SignedClient) -> Result<Self, ClientError> {
        let own_path = route::advertisement(&client.id());
        Ok(Self { url: url.to_owned(), target: Target::service(url)?, own_path, client })
    }

    /// All servers of a list.
    ///
    /// # Errors
    /// When a URL is none.
    pub fn all(
        urls: &[String],
        client: &SignedClient,
    ) -> Result<Vec<Arc<dyn Discovery>>, ClientError> {
        let one = |url: &String| -> Result<Arc<dyn Discovery>, ClientError> {
            Ok(Arc::new(Self::new(url, client.clone())?))
        };
        urls.iter().map(one).collect()
    }

    async fn call(&self, call: Call<'_>) -> Result<Reply, ClientError> {
        Ok(self.client.call(&self.target, &call.timeout(CALL_TIMEOUT)).await?.reply)
    }
}

#[async_trait]
impl Discovery for HttpDiscovery {
    fn url(&self) -> &str {
        &self.url
    }

    async fn publish(&self, document: &Envelope) -> Result<Taken, DiscoveryError> {
        let sent = async {
            let reply = self.call(Call::post(route::ADVERTISEMENTS, document)?).await?;
            reply.ok()?;
            Ok(taken(&reply))
        };
        sent.await.map_err(|error: ClientError| match &error {
            ClientError::Refused { problem, .. } if problem.code == ErrorCode::SequenceNotNewer => {
                DiscoveryError::NotNewer {
                    known: problem.known_sequence,
                    message: error.to_string(),
                }
            }
            _ => DiscoveryError::Failed(error.to_string()),
        })
    }

    async fn withdraw(&self) -> Result<Taken, DiscoveryError> {
        let sent = async {
            let reply = self.call(Call::new(Method::DELETE, &self.own_path)).await?;
            match reply.ok() {
                Err(error) if error.code() == Some(ErrorCode::AdvertisementNotFound) => {}
                other => other?,
            }
            Ok(taken(&reply))
        };
        sent.await.map_err(|error: ClientError| DiscoveryError::Failed(error.to_string()))
    }

    async fn look(&self) -> Result<Taken, DiscoveryError> {
        // Whether it is listed does not matter here.
        let reply = self.call(Call::get(&self.own_path)).await;
        reply.map(|reply| taken(&reply)).map_err(|error| DiscoveryError::Failed(error.to_string()))
    }
}

fn taken(reply: &Reply) -> Taken {
    let seen = reply.headers.get(OBSERVED_ADDRESS_HEADER).and_then(|value| value.to_str().ok());
    Taken { observed: seen.and_then(|text| text.trim().parse().ok()) }
}
