//! Where the programs under test are.

use std::path::{Path, PathBuf};

/// One of the workspace's programs, as it was built.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    // A test is target/<profile>/deps/<name>-<hash>, a program target/<profile>/<name>.
    let this = std::env::current_exe().unwrap();
    let mut directory = this.parent().unwrap();
    if directory.ends_with("deps") {
        directory = directory.parent().unwrap();
    }
    let path = directory.join(name);
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
