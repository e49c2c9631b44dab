//! A real server on a port of its own, over a real SQLite file, with a clock that tests set.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use golem_vm_discovery::config::{Config, SETTINGS};
use golem_vm_discovery::server::Server;
use golem_vm_node::client::{Call, Reply, SignedClient, Target};
use golem_vm_node::clock::ManualClock;
use golem_vm_node::settings::{Settings, SettingsSource};
use golem_vm_protocol::advertisement::{
    Advertisement, AdvertisementEntry, Endpoint, Offer, Overcommit, Prices,
};
use golem_vm_protocol::document::Envelope;
use golem_vm_protocol::time::Timestamp;
use golem_vm_protocol::vm::Isolation;
use golem_vm_protocol::{KeyPair, Problem, VmResources, route};
use serde::Serialize;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// When the tests play, in seconds since 1970.
pub(crate) const NOW: u64 = 1_800_000_000;

pub(crate) struct Market {
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) dir: TempDir,
    pub(crate) url: String,
    stop: CancellationToken,
    server: JoinHandle<()>,
}

pub(crate) fn config(dir: &Path, settings: &[(&str, &str)]) -> Config {
    let dir = dir.to_str().unwrap();
    let given = [
        ("GOLEM_DISCOVERY_HOST", "127.0.0.1"),
        ("GOLEM_DISCOVERY_PORT", "0"),
        ("GOLEM_DISCOVERY_DATABASE_DIR", dir),
    ];
    let environment =
        given.iter().chain(settings).map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    let source = SettingsSource { environment, ..SettingsSource::default() };
    Config::from_settings(&Settings::load(&SETTINGS, source).unwrap()).unwrap()
}

impl Market {
    pub(crate) async fn start(settings: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self::start_in(dir, Arc::new(ManualClock::at(NOW)), settings).await
    }

    pub(crate) async fn start_in(
        dir: TempDir,
        clock: Arc<ManualClock>,
        settings: &[(&str, &str)],
    ) -> Self {
        let server = Server::prepare(&config(dir.path(), settings), clock.clone()).await.unwrap();
        // What was signed in the second of the start is refused.
        clock.advance(1);
        let url = format!("http://{}", server.ready().http);
        let stop = CancellationToken::new();
        let server = tokio::spawn(server.run(stop.clone()));
        Self { clock, dir, url, stop, server }
    }

    /// Stops the server; its directory and clock live on.
    pub(crate) async fn stop(self) -> (TempDir, Arc<ManualClock>) {
        self.stop.cancel();
        self.server.await.unwrap();
        (self.dir, self.clock)
    }

    /// A signed call.
    pub(crate) async fn call(&self, key: &KeyPair, call: &Call<'_>) -> Reply {
        let client = SignedClient::new(key.clone(), self.clock.clone()).unwrap();
        client.call(&Target::service(&self.url).unwrap(), call).await.unwrap().reply
    }

    /// An unsigned call.
    pub(crate) async fn plain(&self, call: &Call<'_>) -> Reply {
        let client = SignedClient::new(key(99), self.clock.clone()).unwrap();
        client.call_unsigned(&self.url, call).await.unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.plain(&Call::get(path)).await
    }

    pub(crate) async fn post(&self, key: &KeyPair, body: &impl Serialize) -> Reply {
        self.call(key, &Call::post(route::ADVERTISEMENTS, body).unwrap()).await
    }

    pub(crate) async fn publish(&self, key: &KeyPair, sequence: u64) -> Reply {
        self.post(key, &self.sealed(key, sequence)).await
    }

    pub(crate) async fn delete(&self, key: &KeyPair, of: &KeyPair) -> Reply {
        let path = route::advertisement(&of.id());
        self.call(key, &Call::new(http::Method::DELETE, &path)).await
    }

    pub(crate) async fn list(&self, query: &str) -> Vec<AdvertisementEntry> {
        self.get(&format!("{}{query}", route::ADVERTISEMENTS)).await.json().unwrap()
    }

    pub(crate) fn sealed(&self, key: &KeyPair, sequence: u64) -> Envelope {
        Envelope::seal(&self.advertisement(key, sequence), key).unwrap()
    }

    /// What `key` would advertise now.
    pub(crate) fn advertisement(&self, key: &KeyPair, sequence: u64) -> Advertisement {
        use golem_vm_node::clock::Clock as _;
        let now = Timestamp::from_unix_seconds(self.clock.now());
        Advertisement {
            lease: None,
            provider_id: key.id(),
            sequence,
            issued_at: now,
            expires_at: now.plus(Duration::from_secs(600)),
            name: "attic".into(),
            country: "SE".into(),
            platform: "x86_64".into(),
            resources: VmResources { cpu: 2, memory: 4, storage: 40 },
            endpoints: vec![Endpoint::Direct {
                api: "127.0.0.1:7466".into(),
                ssh_host: "127.0.0.1".into(),
            }],
            offers: vec![Offer {
                backend: "docker".into(),
                isolation: Isolation::Container,
                accel: None,
                images: Vec::new(),
                egress: "internet".into(),
                enforced: vec!["cpu".into()],
                contained: true,
            }],
            prices: Prices {
                core_month: 5_000_000,
                gb_ram_month: 2_000_000,
                gb_storage_month: 100_000,
            },
            overcommit: Overcommit::default(),
            port_check: None,
            attestations: Vec::new(),
        }
    }
}

pub(crate) fn key(seed: u8) -> KeyPair {
    KeyPair::from_secret_bytes([seed; 32]).unwrap()
}

/// The problem in `reply`, whose status has to be the one of its code.
pub(crate) fn problem(reply: &Reply) -> Problem {
    assert_eq!(reply.headers["content-type"], "application/problem+json");
    let problem: Problem = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!(
        (problem.status, problem.code.status()),
        (reply.status.as_u16(), reply.status.as_u16())
    );
    assert!(problem.request_id.is_some() && !problem.detail.is_empty());
    problem
}
