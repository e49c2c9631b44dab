//! What stands in for Multipass: the provider's test program, under the name `multipass` on a PATH of its own.

use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;

use serde_json::json;
use tempfile::TempDir;

use crate::place::Place;
use crate::programs::program;

/// A Multipass with a directory of its own. Dropped, its guests are ended and its bridge is gone.
#[derive(Debug)]
pub struct MultipassStandIn {
    directory: TempDir,
}

impl Default for MultipassStandIn {
    fn default() -> Self {
        Self::new()
    }
}

impl MultipassStandIn {
    /// One with guests that can be logged in to, on a bridge that no other has.
    #[must_use]
    pub fn new() -> Self {
        // Interfaces have names of at most 15 characters.
        Self::on_bridge(&format!("mps{}", std::process::id() % 1_000_000_000))
    }

    /// The same on a bridge of that name, in whichever network namespace it is used.
    #[must_use]
    pub fn on_bridge(bridge: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let programs = directory.path().join("bin");
        std::fs::create_dir(&programs).unwrap();
        symlink(program("multipass-stand-in"), programs.join("multipass")).unwrap();
        let stand_in = Self { directory };
        std::fs::create_dir(stand_in.world()).unwrap();
        let settings = json!({ "guests": true, "bridge": bridge, "prepare_ms": 300, "boot_ms": 500, "init_ms": 300 });
        std::fs::write(stand_in.world().join("settings.json"), settings.to_string()).unwrap();
        stand_in
    }

    fn world(&self) -> PathBuf {
        self.directory.path().join("world")
    }

    /// Where it is the first `multipass` on the PATH.
    #[must_use]
    pub fn place(&self) -> Place {
        Place::new(self.directory.path())
            .with_programs_of(&self.directory.path().join("bin"))
            .with_variable("MULTIPASS_STAND_IN", &self.world().display().to_string())
    }

    /// The names of all that it has.
    #[must_use]
    pub fn instances(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.world().join("instances"));
        let names = entries.into_iter().flatten().flatten();
        names.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    /// What was done that must never be, in words.
    #[must_use]
    pub fn marks(&self) -> String {
        std::fs::read_to_string(self.world().join("marks")).unwrap_or_default()
    }
}

impl Drop for MultipassStandIn {
    fn drop(&mut self) {
        let mut end = Command::new(program("multipass-stand-in"));
        let _ = end.arg("--end").env("MULTIPASS_STAND_IN", self.world()).status();
    }
}
