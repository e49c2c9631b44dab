//! Bodies of fuzz targets for the files that settings are read from; see `fuzz/README.md`.

use std::path::PathBuf;

use super::{SourceText, config_file, dotenv};

/// Names from a `.env` are names of variables; nothing in a value is expanded or lost; and every
/// error of a config file is one that can be shown.
pub(crate) fn files(text: &str) {
    let parsed = dotenv::parse(text);
    let lines = text.lines().count();
    assert!(parsed.entries.len() + parsed.unreadable.len() <= lines);
    for entry in &parsed.entries {
        assert!(entry.name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'));
        assert!(!entry.name.is_empty() && (1..=lines).contains(&entry.line));
        assert!(!entry.value.contains('\u{0}') || text.contains('\u{0}'));
    }
    let quoted = format!("NAME='{}'\n", text.replace(['\'', '\n', '\r'], ""));
    let read = dotenv::parse(&quoted);
    assert_eq!(
        read.entries.first().map(|entry| entry.value.as_str()),
        quoted
            .trim_end_matches('\n')
            .strip_prefix("NAME='")
            .and_then(|rest| rest.strip_suffix('\'')),
        "a quoted value is not read as it stands"
    );
    let file = SourceText { path: PathBuf::from("config.toml"), text: text.to_owned() };
    if let Ok(values) = config_file::parse(&file) {
        assert!(
            values
                .keys()
                .all(|key| !key.is_empty() || text.contains("\"\"") || text.contains("''"))
        );
    }
}
