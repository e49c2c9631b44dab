//! What a backend was found to be able to do, as it is known now.

use std::fmt;
use std::sync::Arc;

use tokio::sync::watch;

use super::Capabilities;

/// Capabilities that may turn out otherwise while the provider runs: what was remembered from an earlier
/// start is found out anew behind its back. Cheap to clone; clones are one.
#[derive(Clone)]
pub struct Found {
    now: Arc<watch::Sender<Arc<Capabilities>>>,
}

impl Found {
    /// What was found first.
    #[must_use]
    pub fn new(capabilities: Capabilities) -> Self {
        Self { now: Arc::new(watch::Sender::new(Arc::new(capabilities))) }
    }

    /// What is known now.
    #[must_use]
    pub fn now(&self) -> Arc<Capabilities> {
        Arc::clone(&self.now.borrow())
    }

    /// Something else was found.
    pub fn replace(&self, capabilities: Capabilities) {
        self.now.send_replace(Arc::new(capabilities));
    }

    /// Rises when something else is found.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Arc<Capabilities>> {
        self.now.subscribe()
    }
}

impl fmt::Debug for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Found").field(&self.now()).finish()
    }
}
