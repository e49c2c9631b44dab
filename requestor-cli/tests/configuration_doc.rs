//! docs/configuration.md lists exactly the settings that this program has. Its section is rewritten
//! by `UPDATE_DOCS=1 cargo test -p request-vm-on-golem --test configuration_doc`.
#![allow(clippy::unwrap_used)]

use golem_vm_node::documented;
use request_vm_on_golem::config::TABLE;

#[test]
fn every_setting_is_in_the_documentation() {
    let here = env!("CARGO_MANIFEST_DIR");
    let wanted = TABLE.documentation();
    documented::section(here, "configuration.md", "settings:requestor", &wanted).unwrap();
}
