//! What must hold for a provider whenever nothing is in flight.
//!
//! [`Evidence`] is what was found, by the tests' own eyes: rows of the database, instances on the
//! backend, routes of the forwarder, what the provider itself says. [`violations`] compares them, and
//! is pure. Whoever has something of a kind adds it; what is not there is not compared.
//!
//! ```ignore
//! let evidence = Evidence::of(provider_id, data_dir)   // database, forwarder
//!     .instances(vec![Instance { .. }])                // the backend
//!     .status(status_json)                             // golem-provider status --json
//!     .doctor(doctor_json);                            // golem-provider doctor --json
//! assert_eq!(violations(&evidence), [] as [String; 0]);
//! ```
//!
//! For a provider of the end-to-end tests: [`Provider::evidence`](crate::Provider::evidence) and
//! [`Provider::settles`](crate::Provider::settles).

mod books;
mod forwarder;
mod machine;
mod rules;

use std::collections::BTreeSet;
use std::path::Path;

pub use books::{Books, Event, Row};
pub use forwarder::Route;
pub use machine::Instance;
pub(crate) use machine::on_qemu;
pub use rules::violations;

use crate::engine::Engine;
use crate::place::Place;

/// What was found of one provider.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// The provider's id.
    pub provider: String,
    /// What its database says.
    pub books: Books,
    /// What its backend has with its label; `None`: not looked at.
    pub instances: Option<Vec<Instance>>,
    /// What carries its label and should not, in words.
    pub traces: Vec<String>,
    /// Where its forwarder leads; `None`: not looked at, or no forwarder answers.
    pub routes: Option<Vec<Route>>,
    /// The addresses that its firewall lets use the network; `None`: there is none.
    pub guests: Option<BTreeSet<String>>,
    /// What `golem-provider status --json` says.
    pub status: Option<serde_json::Value>,
    /// What `golem-provider doctor --json` says.
    pub doctor: Option<serde_json::Value>,
}

impl Evidence {
    /// The database in a provider's data directory, and the routes of the forwarder that answers there.
    ///
    /// # Panics
    /// When the database can't be read.
    #[must_use]
    pub fn of(provider: &str, data_dir: &Path) -> Self {
        Self {
            provider: provider.to_owned(),
            books: Books::read(data_dir),
            routes: forwarder::routes(data_dir),
            ..Self::default()
        }
    }

    /// With these instances on the backend.
    #[must_use]
    pub fn instances(mut self, instances: Vec<Instance>) -> Self {
        self.instances = Some(instances);
        self
    }

    /// With what a Docker Engine has, and what the firewall of that place lets through.
    #[must_use]
    pub fn engine(mut self, engine: &Engine, place: &Place) -> Self {
        let (instances, traces) = machine::on_engine(engine, &self.provider);
        self.traces = traces;
        self.guests = machine::guests(place, &self.provider);
        self.instances(instances)
    }

    /// With what the running provider says of itself.
    #[must_use]
    pub fn status(mut self, status: serde_json::Value) -> Self {
        self.status = Some(status);
        self
    }

    /// With what its examination found.
    #[must_use]
    pub fn doctor(mut self, doctor: serde_json::Value) -> Self {
        self.doctor = Some(doctor);
        self
    }
}
