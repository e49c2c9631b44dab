//! What is wanted.

use std::time::Duration;

/// How long, how, and with which seed.
#[derive(Debug, Clone)]
pub struct Plan {
    /// For how long things are done and killed; setting up and clearing away come on top.
    pub duration: Duration,
    /// What all that is random follows from.
    pub seed: u64,
    /// How many requestors.
    pub renters: usize,
    /// How often everything is brought to rest and examined.
    pub interval: Duration,
    /// Whether the engine is the one that all tests share, and is left in peace.
    pub shared_engine: bool,
}
