//! Changing the config file: one line is replaced, everything else (comments too) stays.

use std::path::Path;

use crate::atomic_file;
use crate::error::{CliError, Result};

/// The text of a config file with `key` set to `value`, or removed.
///
/// # Errors
/// When the key stands there over several lines, which is not a form that is changed by machine.
fn edited(text: &str, key: &str, value: Option<&str>) -> Result<String, String> {
    let line = value.map(|value| format!("{key} = {}", quoted(value)));
    let mut out: Vec<String> = Vec::new();
    let mut done = false;
    let mut top_level = true;
    for old in text.lines() {
        let trimmed = old.trim_start();
        if trimmed.starts_with('[') {
            top_level = false;
        }
        let name = trimmed.split('=').next().unwrap_or_default().trim().trim_matches('"');
        if top_level && trimmed.contains('=') && name == key {
            if trimmed.contains("\"\"\"") || trimmed.contains("'''") {
                return Err(format!("\"{key}\" is written over several lines; change it by hand"));
            }
            if !done {
                out.extend(line.clone());
            }
            done = true;
        } else {
            out.push(old.to_owned());
        }
    }
    if !done && let Some(line) = line {
        // Before the first table, for behind it the key would belong to that table.
        let at = out.iter().position(|l| l.trim_start().starts_with('[')).unwrap_or(out.len());
        out.insert(at, line);
    }
    let mut text = out.join("\n");
    if !text.is_empty() {
        text.push('\n');
    }
    Ok(text)
}

/// A TOML basic string.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Sets `key` in the config file `path` to `value`, or removes it. The file changes as a whole or
/// not at all, and is made (its directory too) if it is not there.
///
/// # Errors
/// When the file can't be read or written.
pub fn change(path: &Path, key: &str, value: Option<&str>) -> Result<()> {
    let failed = |action: &str, error: &dyn std::fmt::Display| {
        CliError::other(format!("can't {action} {}", path.display())).because(error)
    };
    let old = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(failed("read", &error)),
    };
    let new = edited(&old, key, value).map_err(|error| failed("change", &error))?;
    if new == old {
        return Ok(());
    }
    let directory = path.parent().unwrap_or_else(|| Path::new("."));
    std::fs::create_dir_all(directory).map_err(|error| failed("make the directory of", &error))?;
    atomic_file::replace(path, new.as_bytes(), None).map_err(|error| failed("write", &error))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn one_line_changes_and_the_rest_stays() {
        let old = "# mine\ndiscovery-url = \"http://old\" # why\n\n[future]\ndiscovery-url = 1\n";
        let new = edited(old, "discovery-url", Some("http://new")).unwrap();
        assert_eq!(new, "# mine\ndiscovery-url = \"http://new\"\n\n[future]\ndiscovery-url = 1\n");
        assert_eq!(edited(&new, "base-dir", None).unwrap(), new);
        assert_eq!(
            edited("[future]\nx = 1\n", "base-dir", Some("C:\\\"x\"")).unwrap(),
            "base-dir = \"C:\\\\\\\"x\\\"\"\n[future]\nx = 1\n"
        );
        assert_eq!(edited("discovery-url = \"x\"\n", "discovery-url", None).unwrap(), "");
        assert!(edited("base-dir = \"\"\"\nx\"\"\"\n", "base-dir", Some("y")).is_err());
    }

    #[test]
    fn a_file_is_made_with_its_directory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("golem/requestor.toml");
        change(&path, "discovery-url", Some("http://a")).unwrap();
        change(&path, "base-dir", Some("/b")).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "discovery-url = \"http://a\"\nbase-dir = \"/b\"\n");
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }
}
