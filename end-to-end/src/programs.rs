//! Where the programs under test are.

use std::path::{Path, PathBuf};

/// One of the workspace's programs, as it was built.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    // The test is target/<profile>/deps/<name>-<hash>.
    let test = std::env::current_exe().unwrap();
    let path = test.parent().and_then(Path::parent).unwrap().join(name);
    assert!(
        path.is_file(),
        "{} is not there; build it first: cargo build --workspace --bins",
        path.display()
    );
    path
}

/// The root of the workspace.
#[must_use]
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}
