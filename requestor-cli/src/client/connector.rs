//! (provider id, endpoints) → stream. The only code that knows an address: relays and dialling by
//! key will be other arms of [`Connector::api`] and [`Connector::ssh`].

use std::time::Duration;

use golem_vm_protocol::KeyId;
use golem_vm_protocol::advertisement::Endpoint;
use golem_vm_protocol::text::printable;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Bytes in both directions.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A stream of bytes to a provider or to a VM on it.
pub type Stream = Box<dyn Duplex>;

/// A connection to a provider's API.
pub struct ApiConnection {
    /// The stream.
    pub stream: Stream,
    /// What stands in the `Host` header. Nothing relies on it: requests are signed for an id.
    pub authority: String,
}

/// Why a provider can't be reached. Nothing was sent to it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// It has no endpoint of a kind that this version knows.
    #[error("it advertises no way to reach it that this version of golem knows")]
    NoEndpoint,
    /// All endpoints were tried.
    #[error("{}", .0.join("; "))]
    Failed(Vec<String>),
}

/// Reaches providers.
#[derive(Debug, Clone, Copy)]
pub struct Connector {
    /// How long one attempt may take.
    pub deadline: Duration,
}

impl Default for Connector {
    fn default() -> Self {
        Self { deadline: Duration::from_secs(10) }
    }
}

impl Connector {
    /// A stream to the API of the provider `id`.
    ///
    /// # Errors
    /// [`ConnectError`], with what was said at each endpoint.
    pub async fn api(
        &self,
        _id: &KeyId,
        endpoints: &[Endpoint],
    ) -> Result<ApiConnection, ConnectError> {
        let mut failures = Vec::new();
        for endpoint in endpoints {
            let Endpoint::Direct { api, .. } = endpoint else { continue };
            match self.dial(api).await {
                Ok(stream) => return Ok(ApiConnection { stream, authority: api.clone() }),
                Err(reason) => failures.push(reason),
            }
        }
        Err(if failures.is_empty() {
            ConnectError::NoEndpoint
        } else {
            ConnectError::Failed(failures)
        })
    }

    /// A stream to the SSH port of a VM: `host` and `port` as the provider `id` gave them.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn ssh(&self, host: &str, port: u16) -> Result<Stream, ConnectError> {
        self.dial(&host_port(host, port)).await.map_err(|reason| ConnectError::Failed(vec![reason]))
    }

    async fn dial(&self, address: &str) -> Result<Stream, String> {
        let shown = printable(address, 260);
        match timeout(self.deadline, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // Small messages go out at once; without it a key press waits for an
                // acknowledgement. A socket that refuses the option still works.
                let _ = stream.set_nodelay(true);
                Ok(Box::new(stream))
            }
            Ok(Err(error)) => Err(format!("{shown}: {}", plain(&error))),
            Err(_) => Err(format!("{shown}: no answer within {} s", self.deadline.as_secs())),
        }
    }
}

/// `host:port`, with brackets where the host is an IPv6 address.
#[must_use]
pub fn host_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// The host of the first way to reach a provider, for people.
#[must_use]
pub fn shown_host(endpoints: &[Endpoint]) -> Option<&str> {
    endpoints.iter().find_map(|endpoint| match endpoint {
        Endpoint::Direct { ssh_host, .. } => Some(ssh_host.as_str()),
        Endpoint::Unknown => None,
    })
}

/// What the operating system said, without its number.
fn plain(error: &std::io::Error) -> String {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::ConnectionRefused => "nothing listens there (connection refused)".to_owned(),
        ErrorKind::TimedOut => "no answer".to_owned(),
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => {
            "there is no route to it".to_owned()
        }
        _ => error.to_string(),
    }
}

impl std::fmt::Debug for ApiConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiConnection").field("authority", &self.authority).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn id() -> KeyId {
        golem_vm_protocol::KeyPair::from_secret_bytes([1; 32]).unwrap().id()
    }

    #[tokio::test]
    async fn the_next_endpoint_is_tried_when_one_is_closed() {
        let open = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = |listener: &tokio::net::TcpListener| Endpoint::Direct {
            api: listener.local_addr().unwrap().to_string(),
            ssh_host: "127.0.0.1".into(),
        };
        let (good, bad) = (address(&open), address(&closed));
        drop(closed);
        let connector = Connector::default();
        let both = [Endpoint::Unknown, bad.clone(), good.clone()];
        let connection = connector.api(&id(), &both).await.unwrap();
        assert_eq!(connection.authority, good.to_string());
        let error = connector.api(&id(), &[bad]).await.unwrap_err().to_string();
        assert!(error.contains("nothing listens there"), "{error}");
        let error = connector.api(&id(), &[Endpoint::Unknown]).await.unwrap_err();
        assert_eq!(error, ConnectError::NoEndpoint);
    }

    #[test]
    fn ipv6_addresses_get_brackets() {
        assert_eq!(host_port("::1", 22), "[::1]:22");
        assert_eq!(host_port("h", 22), "h:22");
    }
}
