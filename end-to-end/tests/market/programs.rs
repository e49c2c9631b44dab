//! What the programs say about themselves.

use golem_vm_end_to_end::{Outcome, Place, program};

#[test]
fn each_says_how_to_start() {
    let home = tempfile::tempdir().unwrap();
    let place = Place::new(home.path());
    for (name, how) in [
        ("golem", "golem config set discovery-url"),
        ("golem-provider", "golem-provider start"),
        ("golem-discovery", "golem-discovery start"),
        ("port-checker", "port-checker start"),
    ] {
        let help = Outcome::of(place.command(program(name)).arg("--help"), b"").done();
        assert!(help.stdout.contains(how), "{help}");
        assert!(
            help.stdout.to_lowercase().contains("exit codes") || name == "port-checker",
            "{help}"
        );
        let version = Outcome::of(place.command(program(name)).arg("--version"), b"").done();
        assert_eq!(version.stdout.trim(), format!("{name} {}", env!("CARGO_PKG_VERSION")));
    }
    let left = std::fs::read_dir(home.path()).unwrap().count();
    assert_eq!(left, 0, "help and version leave files behind");
}
