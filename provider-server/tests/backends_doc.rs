//! docs/backends.md says of each backend what the code does. Its table is rewritten by
//! `UPDATE_DOCS=1 cargo test -p golem-vm-provider --test backends_doc`.
#![allow(clippy::unwrap_used)]

use golem_vm_node::documented;
use golem_vm_provider::backend::at_most;

#[test]
fn what_backends_can_do_is_in_the_documentation() {
    let here = env!("CARGO_MANIFEST_DIR");
    documented::section(here, "backends.md", "backends", &at_most::markdown()).unwrap();
}
