//! The description of a program's settings: what the code reads and the documentation lists.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use golem_vm_protocol::text::printable;

use super::suggestion::closest;

/// One setting.
#[derive(Debug, Clone, Copy)]
pub struct SettingSpec {
    /// Its names in the environment and in `.env`; the first is the one that is documented and
    /// wins over the others. Never empty.
    pub names: &'static [&'static str],
    /// Its key in the config file, dotted for tables; empty when it can't be set there.
    pub toml_key: &'static str,
    /// The text that is used when no layer has it.
    pub default: Option<&'static str>,
    /// What a value is, to complete "is not …": "a port (0 to 65535)".
    pub expected: &'static str,
    /// What it does, as one sentence without a full stop.
    pub help: &'static str,
}

impl SettingSpec {
    /// The documented name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.names.first().copied().unwrap_or("")
    }
}

/// A name that the original programs knew and that has no meaning here.
#[derive(Debug, Clone, Copy)]
pub struct IgnoredSetting {
    /// The name.
    pub name: &'static str,
    /// Why it does nothing, or what to use instead.
    pub reason: &'static str,
}

/// All settings of one program.
#[derive(Debug, Clone, Copy)]
pub struct SettingsTable {
    /// The program's name among the config files and data directories: `provider`, `discovery`, …
    pub service: &'static str,
    /// What our names begin with: an unknown name with one of these is probably a typing error.
    pub prefixes: &'static [&'static str],
    /// The settings.
    pub settings: &'static [SettingSpec],
    /// Names that are known and ignored.
    pub ignored: &'static [IgnoredSetting],
}

impl SettingsTable {
    /// Warnings about names that begin like ours and are none of ours. Each name is reported once.
    pub(super) fn unknown_names<'a>(
        &self,
        names: impl Iterator<Item = (&'a str, String)>,
    ) -> Vec<String> {
        let known: Vec<&str> =
            self.settings.iter().flat_map(|spec| spec.names.iter().copied()).collect();
        let mut seen = BTreeSet::new();
        let mut warnings = Vec::new();
        for (name, place) in names {
            if known.contains(&name) || !seen.insert(name.to_owned()) {
                continue;
            }
            if let Some(ignored) = self.ignored.iter().find(|ignored| ignored.name == name) {
                warnings.push(format!("{name} ({place}) has no effect: {}", ignored.reason));
            } else if self.prefixes.iter().any(|prefix| name.starts_with(prefix)) {
                let hint = closest(name, &known)
                    .map(|best| format!("; did you mean {best}?"))
                    .unwrap_or_default();
                warnings.push(format!(
                    "{} ({place}) is no setting of this program{hint}",
                    printable(name, 80)
                ));
            }
        }
        warnings
    }

    /// Warnings about keys of the config file that are none of ours.
    pub(super) fn unknown_keys<'a>(
        &self,
        keys: impl Iterator<Item = &'a str>,
        path: &Path,
    ) -> Vec<String> {
        let known: Vec<&str> =
            self.settings.iter().map(|spec| spec.toml_key).filter(|key| !key.is_empty()).collect();
        keys.filter(|key| !known.contains(key))
            .map(|key| {
                let hint = closest(key, &known)
                    .map(|best| format!("; did you mean \"{best}\"?"))
                    .unwrap_or_default();
                format!(
                    "\"{}\" in {} is no setting of this program{hint}",
                    printable(key, 80),
                    path.display()
                )
            })
            .collect()
    }

    /// All settings and ignored names, as docs/configuration.md has them.
    #[must_use]
    pub fn documentation(&self) -> String {
        if self.ignored.is_empty() {
            self.markdown()
        } else {
            format!("{}\n{}", self.markdown(), self.markdown_ignored())
        }
    }

    /// The settings as the rows of a Markdown table: name, key in the config file, default, meaning.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut out = String::from(
            "| setting | in the config file | default | what it does |\n|---|---|---|---|\n",
        );
        for spec in self.settings {
            let (first, aliases) = spec.names.split_first().unwrap_or((&"", &[]));
            let mut name = format!("`{first}`");
            for alias in aliases {
                let _ = write!(name, ", also `{alias}`");
            }
            let key = if spec.toml_key.is_empty() {
                "–".to_owned()
            } else {
                format!("`{}`", spec.toml_key)
            };
            let default = match spec.default {
                None => "–".to_owned(),
                Some("") => "empty".to_owned(),
                Some(text) => format!("`{text}`"),
            };
            let _ =
                writeln!(out, "| {name} | {key} | {default} | {} ({}) |", spec.help, spec.expected);
        }
        out
    }

    /// The ignored names as the rows of a Markdown table.
    #[must_use]
    pub fn markdown_ignored(&self) -> String {
        let mut out = String::from("| ignored | why |\n|---|---|\n");
        for ignored in self.ignored {
            let _ = writeln!(out, "| `{}` | {} |", ignored.name, ignored.reason);
        }
        out
    }
}
