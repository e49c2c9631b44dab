//! What a real Multipass 1.16.3 said, recorded call by call: what all readers of its words are tried with.

use serde::Deserialize;

use super::program::Said;

/// One call.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Recording {
    /// What was tried.
    pub(super) name: String,
    /// Its arguments.
    pub(super) argv: Vec<String>,
    exit: i32,
    pub(super) stdout: String,
    stderr: String,
}

impl Recording {
    /// The one of that name.
    pub(super) fn named(name: &str) -> Self {
        let found = all().into_iter().find(|recording| recording.name == name);
        found.unwrap_or_else(|| panic!("there is no recording {name}"))
    }

    pub(super) fn said(&self) -> Said {
        Said { code: Some(self.exit), stdout: self.stdout.clone(), stderr: self.stderr.clone() }
    }
}

/// All of them.
#[expect(clippy::unwrap_used, reason = "they are part of this program")]
pub(super) fn all() -> Vec<Recording> {
    let lines = include_str!("../../../tests/multipass/recordings.jsonl").lines();
    lines.map(|line| serde_json::from_str(line).unwrap()).collect()
}
