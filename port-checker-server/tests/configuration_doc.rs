//! docs/configuration.md lists exactly the settings that this program has. Its section is rewritten
//! by `UPDATE_DOCS=1 cargo test -p golem-port-checker --test configuration_doc`.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use golem_port_checker::config::TABLE;

#[test]
fn every_setting_is_in_the_documentation() {
    const BEGIN: &str = "<!-- settings:port-checker -->\n";
    const END: &str = "<!-- end -->\n";
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    if !docs.is_dir() {
        eprintln!("{} is not there: a published crate has nothing to compare with", docs.display());
        return;
    }
    let path = docs.join("configuration.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (section, after) = rest.split_once(END).unwrap();

    let mut wanted = format!("\n{}\n", TABLE.markdown());
    if !TABLE.ignored.is_empty() {
        wanted.push_str(&format!("{}\n", TABLE.markdown_ignored()));
    }
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, [before, BEGIN, &wanted, END, after].concat()).unwrap();
    } else {
        assert!(
            section == wanted,
            "docs/configuration.md is out of date; it should say:\n{wanted}"
        );
    }
}
