//! The fail points of a provider, from outside: which it has reached, and at which it is to be killed.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::outcome::Outcome;
use crate::programs::program;

/// How a test steers them. Clones are the same.
#[derive(Debug, Clone)]
pub struct FailPoints {
    order: PathBuf,
    record: PathBuf,
}

impl FailPoints {
    pub(crate) fn in_directory(directory: &Path) -> Self {
        Self { order: directory.join("fail-point"), record: directory.join("reached") }
    }

    /// What the provider has to be started with.
    pub(crate) fn variables(&self) -> [(String, String); 2] {
        [
            ("GOLEM_FAIL_POINT".to_owned(), format!("@{}", self.order.display())),
            ("GOLEM_FAIL_POINTS_REACHED".to_owned(), self.record.display().to_string()),
        ]
    }

    /// All there are, by `golem-provider` itself.
    ///
    /// # Panics
    /// When it was built without them.
    #[must_use]
    pub fn all() -> Vec<String> {
        let listed = Outcome::of(Command::new(program("golem-provider")).arg("fail-points"), b"");
        assert_eq!(
            listed.code, 0,
            "golem-provider has no fail points; build it with: cargo build --workspace --bins --all-features"
        );
        listed.stdout.lines().map(str::to_owned).collect()
    }

    /// From now on the process is killed when it reaches this point for the `nth` time.
    pub fn arm(&self, point: &str, nth: usize) {
        // In one step: half of an order must not be read.
        let fresh = self.order.with_extension("new");
        std::fs::write(&fresh, format!("{point}:{nth}")).unwrap();
        std::fs::rename(&fresh, &self.order).unwrap();
    }

    /// From now on it is not killed any more.
    pub fn disarm(&self) {
        let _ = std::fs::remove_file(&self.order);
    }

    /// The points reached so far, oldest first, over all its runs.
    #[must_use]
    pub fn reached(&self) -> Vec<String> {
        let record = std::fs::read_to_string(&self.record).unwrap_or_default();
        record.lines().map(str::to_owned).collect()
    }
}
