//! docs/configuration.md lists exactly the settings that this program has. Its section is rewritten
//! by `UPDATE_DOCS=1 cargo test -p golem-port-checker --test configuration_doc`.
#![allow(clippy::unwrap_used)]

use golem_port_checker::config::TABLE;
use golem_vm_node::documented;

#[test]
fn every_setting_is_in_the_documentation() {
    let here = env!("CARGO_MANIFEST_DIR");
    let wanted = TABLE.documentation();
    documented::section(here, "configuration.md", "settings:port-checker", &wanted).unwrap();
}
