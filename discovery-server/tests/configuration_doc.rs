//! docs/configuration.md lists exactly the settings that this program has. Its section is rewritten
//! by `UPDATE_DOCS=1 cargo test -p golem-vm-discovery --test configuration_doc`.
#![allow(clippy::unwrap_used)]

use golem_vm_discovery::config::SETTINGS;
use golem_vm_node::documented;

#[test]
fn every_setting_is_in_the_documentation() {
    let here = env!("CARGO_MANIFEST_DIR");
    let wanted = SETTINGS.documentation();
    documented::section(here, "configuration.md", "settings:discovery", &wanted).unwrap();
}
