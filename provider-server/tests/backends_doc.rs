//! docs/backends.md says of each backend what the code does. Its table is rewritten by
//! `UPDATE_DOCS=1 cargo test -p golem-vm-provider --test backends_doc`.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use golem_vm_provider::backend::at_most;

#[test]
fn what_backends_can_do_is_in_the_documentation() {
    const BEGIN: &str = "<!-- backends -->\n";
    const END: &str = "<!-- end -->\n";
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    if !docs.is_dir() {
        eprintln!("{} is not there: a published crate has nothing to compare with", docs.display());
        return;
    }
    let path = docs.join("backends.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (section, after) = rest.split_once(END).unwrap();
    let wanted = format!("\n{}\n", at_most::markdown());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, [before, BEGIN, &wanted, END, after].concat()).unwrap();
    } else {
        assert!(
            section == wanted,
            "docs/backends.md is out of date (UPDATE_DOCS=1 writes it); it should say:\n{wanted}"
        );
    }
}
