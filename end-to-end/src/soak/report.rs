//! What is counted.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

/// How often something was done, and how it ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// As wanted.
    pub done: u64,
    /// With a refusal that was in order: no room, another state.
    pub refused: u64,
    /// Not, while something was being killed or had just been.
    pub disturbed: u64,
}

/// How it went.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// What the run follows from.
    pub seed: u64,
    /// Whether the engine was one that could be killed.
    pub private_engine: bool,
    /// How long it took.
    pub lasted: Duration,
    /// What requestors did, by kind.
    pub operations: BTreeMap<&'static str, Tally>,
    /// What was done to the market, by kind.
    pub troubles: BTreeMap<&'static str, u64>,
    /// SSH sessions that were held open.
    pub sessions: u64,
    /// Of these, how many ended with the forwarder or the engine that was killed.
    pub sessions_cut: u64,
    /// How many kills of the provider open sessions have outlived, each session counted.
    pub survived: u64,
    /// Bytes that went through them and back.
    pub bytes: u64,
    /// How often everything was brought to rest and looked at.
    pub examinations: u64,
    /// What did not hold, in sentences.
    pub violations: Vec<String>,
}

impl Report {
    pub(crate) fn new(seed: u64, private_engine: bool) -> Self {
        Self { seed, private_engine, ..Self::default() }
    }

    /// The same for programs.
    #[must_use]
    pub fn json(&self) -> Value {
        let operations = self.operations.iter().map(|(kind, tally)| {
            let Tally { done, refused, disturbed } = tally;
            let tally = json!({"done": done, "refused": refused, "disturbed": disturbed});
            ((*kind).to_owned(), tally)
        });
        json!({
            "seed": self.seed,
            "private_engine": self.private_engine,
            "seconds": self.lasted.as_secs(),
            "operations": operations.collect::<serde_json::Map<_, _>>(),
            "troubles": self.troubles,
            "sessions": {
                "held": self.sessions,
                "cut_with_forwarder_or_engine": self.sessions_cut,
                "survived_provider_ends": self.survived,
                "bytes": self.bytes,
            },
            "examinations": self.examinations,
            "violations": self.violations,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<24}{:>8}{:>9}{:>11}", "requestors", "done", "refused", "disturbed")?;
        for (kind, tally) in &self.operations {
            let Tally { done, refused, disturbed } = tally;
            writeln!(f, "  {kind:<22}{done:>8}{refused:>9}{disturbed:>11}")?;
        }
        writeln!(f, "troubles")?;
        for (kind, count) in &self.troubles {
            writeln!(f, "  {kind:<22}{count:>8}")?;
        }
        writeln!(f, "SSH sessions")?;
        writeln!(f, "  {:<38}{:>8}", "held, bytes going both ways", self.sessions)?;
        writeln!(f, "  {:<38}{:>8}", "outlived an end of the provider", self.survived)?;
        writeln!(f, "  {:<38}{:>8}", "ended with forwarder or engine", self.sessions_cut)?;
        writeln!(f, "  {:<38}{:>8}", "KiB carried", self.bytes / 1024)?;
        writeln!(f, "{:<40}{:>8}", "examinations at rest", self.examinations)?;
        writeln!(f, "{:<40}{:>8}", "violations", self.violations.len())?;
        for violation in &self.violations {
            writeln!(f, "  {violation}")?;
        }
        let engine = if self.private_engine { "one of its own" } else { "shared, left in peace" };
        write!(f, "seed {}, {} s, engine: {engine}", self.seed, self.lasted.as_secs())
    }
}
