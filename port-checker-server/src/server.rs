//! The life of the service.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use golem_vm_node::clock::{Clock, SystemClock};
use golem_vm_node::data_dir::DataDir;
use golem_vm_node::http::{
    self as node_http, AddressShares, CallClass, CallsPerMinute, HttpLimits, HttpService,
    RateLimits, Recipients, Signing,
};
use golem_vm_node::ready::{self, Ready};
use golem_vm_node::{key_file, open_files};
use golem_vm_protocol::{KeyId, KeyPair};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, TABLE};
use crate::guard::Guard;
use crate::http::{Checker, router};
use crate::probe::{ProbePolicy, Prober};

/// How much the service does at once.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections to providers open or opening, for all requests together.
    pub probes: usize,
    /// Requests of one address at a time.
    pub requests_per_address: usize,
    /// How a port is dialled.
    pub policy: ProbePolicy,
    /// When a caller is told that it did not show that another address is its own: always so long
    /// after it asked, so that it can't tell a closed port from an open one, or one name from
    /// another. More than resolving a name and dialling one port take at most.
    pub refused_after: Duration,
    /// The listener's bounds.
    pub http: HttpLimits,
}

impl Default for Limits {
    fn default() -> Self {
        let policy = ProbePolicy::default();
        Self {
            // Two full requests side by side without anybody waiting.
            probes: 2048,
            requests_per_address: 2,
            policy,
            refused_after: Duration::from_secs(16),
            http: HttpLimits {
                max_in_flight: 256,
                // The proof of another address than the caller's comes before the rest.
                handler_timeout: policy.deadline + Duration::from_secs(20),
                // 1024 ports of five digits with quotes and blanks are under 10 KiB.
                max_body: 32 * 1024,
                ..HttpLimits::default()
            },
        }
    }
}

/// Looks at its health by each address in a minute.
const READS_PER_MINUTE: u32 = 600;

/// A check is the expensive thing here.
fn class(method: &http::Method, _: &str) -> CallClass {
    if method.is_safe() { CallClass::Read } else { CallClass::Expensive }
}

/// A port checker that listens and is not serving yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    id: KeyId,
    service: HttpService,
}

impl Server {
    /// Listens as `config` says, in the name of `key`.
    ///
    /// # Errors
    /// When the port can't be had.
    pub async fn bind(
        config: &Config,
        key: KeyPair,
        clock: Arc<dyn Clock>,
        limits: Limits,
    ) -> anyhow::Result<Self> {
        let listener = node_http::bind(&config.host, config.port)
            .await
            .context("the port is set by --port or PORT_CHECKER_PORT")?;
        let address = listener.local_addr().context("can't tell the port that was taken")?;
        let recipients = Recipients::service(&config.public_names, address);
        if recipients.is_empty() {
            tracing::warn!(
                "PORT_CHECKER_PUBLIC_NAMES is empty, so signed requests have to name this server's id; \
                 set it to what providers have in GOLEM_PROVIDER_PORT_CHECKERS, such as checker.example:{}",
                address.port()
            );
        }
        let id = key.id();
        let checker = Checker {
            key: Arc::new(key.clone()),
            clock: Arc::clone(&clock),
            allow_unsigned: config.allow_unsigned,
            attestation_validity: config.attestation_validity,
            guard: Guard::new(config.allow_private),
            refused_after: limits.refused_after,
            prober: Prober::new(limits.policy, limits.probes),
            shares: AddressShares::new(limits.requests_per_address),
        };
        let rates = CallsPerMinute {
            reads: READS_PER_MINUTE,
            writes: config.checks_per_minute,
            expensive: config.checks_per_minute,
        };
        let rates = RateLimits::new(rates, class, clock.clone());
        let signing = Arc::new(Signing::new(key, recipients, clock));
        let service = HttpService::signed(router(checker), limits.http, signing)
            .behind(config.trusted_proxies.clone())
            .limited(rates);
        Ok(Self { listener, address, id, service })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its id.
    #[must_use]
    pub const fn id(&self) -> KeyId {
        self.id
    }

    /// Serves until `shutdown`, then finishes what is open.
    pub async fn run(self, shutdown: CancellationToken) {
        self.service.serve(self.listener, shutdown).await;
    }
}

/// `port-checker start`: key, lock, listener, until `shutdown`. Where `ready_fd` is given it is
/// told the address.
///
/// # Errors
/// Whatever keeps it from serving, as a sentence.
pub async fn start(
    config: &Config,
    ready_fd: Option<u32>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let data_dir =
        DataDir::resolve(config.data_dir.as_deref(), TABLE.service, "PORT_CHECKER_DATA_DIR")?;
    let _lock = data_dir.lock()?;
    let key = key_file::load_or_create(&data_dir.key_path())?;
    let mut limits = Limits::default();
    let open_files = usize::try_from(open_files::raise_limit()).unwrap_or(usize::MAX);
    // Leaves as many for the listener and everything else.
    limits.probes = limits.probes.min(open_files / 2).max(1);

    let server = Server::bind(config, key, Arc::new(SystemClock), limits).await?;
    tracing::info!("port checker {} listens on http://{}", server.id(), server.address());
    if config.allow_unsigned {
        tracing::warn!(
            "the original's unsigned check is served: anybody can look for open ports of any public address"
        );
    }
    if config.allow_private {
        tracing::warn!(
            "loopback and private addresses are dialled, as PORT_CHECKER_ALLOW_PRIVATE_ADDRESSES says: \
             for test networks only"
        );
    }
    if let Some(fd) = ready_fd {
        ready::announce(fd, &Ready::new(TABLE.service, server.id(), server.address()))?;
    }
    server.run(shutdown).await;
    tracing::info!("port checker has stopped");
    Ok(())
}
