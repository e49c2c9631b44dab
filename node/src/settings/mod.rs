//! Settings in layers: flag, environment, `.env` in the working directory, config file, default.
//!
//! A program describes its settings once, as a [`SettingsTable`]; the documentation is tested
//! against that table. [`Settings::load`] is pure over its [`SettingsSource`]: only
//! [`SettingsSource::from_process`] touches the process and the disk. Every value remembers its
//! [`Origin`], so that an error can say which line of which file to change.

mod config_file;
mod dotenv;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod source;
mod suggestion;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use golem_vm_protocol::text::printable;

pub use source::{SettingsSource, SourceText};
pub use suggestion::closest;
pub use table::{IgnoredSetting, SettingSpec, SettingsTable};

/// Longest part of a value that an error repeats, in characters.
const SHOWN_VALUE: usize = 80;

/// Where a value came from, strongest first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// A command line flag.
    Flag,
    /// The process environment.
    Environment,
    /// A line of the `.env` file in the working directory.
    Dotenv {
        /// The file.
        path: PathBuf,
        /// Line number, from 1.
        line: usize,
    },
    /// A key of the config file.
    ConfigFile {
        /// The file.
        path: PathBuf,
        /// The key, dotted.
        key: String,
    },
    /// The built-in default.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("from the command line"),
            Self::Environment => f.write_str("from the environment"),
            Self::Dotenv { path, line } => write!(f, "from {} line {line}", path.display()),
            Self::ConfigFile { path, key } => write!(f, "from \"{key}\" in {}", path.display()),
            Self::Default => f.write_str("the default"),
        }
    }
}

/// Why the settings can't be used. Each says which setting, with which value, from where.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The value does not parse.
    #[error("{name}={value} {origin} is not {expected}{}", because(.reason))]
    Invalid {
        /// The name that carried the value.
        name: String,
        /// The value, made printable.
        value: String,
        /// Where it came from.
        origin: Box<Origin>,
        /// What it should have been, such as "a port (0 to 65535)".
        expected: &'static str,
        /// What the parser said.
        reason: String,
    },
    /// No layer has it and there is no default.
    #[error("{name} is not set: {help}. Set it in the environment{}", config_hint(.toml_key))]
    Missing {
        /// The setting's first name.
        name: &'static str,
        /// What it is for.
        help: &'static str,
        /// Its key in the config file; empty if it has none.
        toml_key: &'static str,
    },
    /// A file of settings can't be read or is no TOML.
    #[error("can't use {}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The program asked for a setting that its table does not have: a defect of the program.
    #[error("this program knows no setting called {0}; please report this")]
    NotInTable(String),
}

fn because(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(": {reason}") }
}

fn config_hint(toml_key: &str) -> String {
    if toml_key.is_empty() {
        String::new()
    } else {
        format!(", or as \"{toml_key}\" in the config file")
    }
}

/// One value and where it came from.
#[derive(Debug, Clone)]
struct Value {
    /// The name that carried it (an alias, a flag's setting, or the first name for a default).
    name: String,
    text: String,
    origin: Origin,
}

/// The settings of one program, resolved.
#[derive(Debug)]
pub struct Settings {
    table: &'static SettingsTable,
    values: BTreeMap<&'static str, Value>,
    warnings: Vec<String>,
    // A plain mutex: held for one insert, never across an await.
    read: Mutex<BTreeSet<&'static str>>,
}

impl Settings {
    /// Resolves every setting of `table` from `source`.
    ///
    /// Within one layer the first name of a setting wins over its aliases; an earlier layer wins
    /// over a later one whatever the name. An empty value in a layer below the flags counts as unset.
    ///
    /// # Errors
    /// [`SettingsError::File`] when the config file is no TOML.
    pub fn load(
        table: &'static SettingsTable,
        source: SettingsSource,
    ) -> Result<Self, SettingsError> {
        let mut warnings = source.warnings.clone();
        let dotenv = source.dotenv.as_ref().map(|file| dotenv::parse(&file.text));
        let config =
            source.config_file.as_ref().map(config_file::parse).transpose()?.unwrap_or_default();

        if let (Some(file), Some(parsed)) = (&source.dotenv, &dotenv) {
            for line in &parsed.unreadable {
                warnings.push(format!(
                    "{} line {line} is not NAME=value and is ignored",
                    file.path.display()
                ));
            }
        }
        let dotenv_entries = dotenv.map(|parsed| parsed.entries).unwrap_or_default();
        let dotenv_path = source.dotenv.as_ref().map(|file| file.path.clone()).unwrap_or_default();

        let mut values = BTreeMap::new();
        for spec in table.settings {
            let primary = spec.name();
            let flag =
                source.flags.iter().rev().find(|(name, _)| spec.names.contains(&name.as_str()));
            let value = flag
                .map(|(_, text)| Value {
                    name: primary.to_owned(),
                    text: text.clone(),
                    origin: Origin::Flag,
                })
                .or_else(|| from_environment(spec, &source, &mut warnings))
                .or_else(|| {
                    spec.names.iter().find_map(|name| {
                        let entry = dotenv_entries
                            .iter()
                            .rev()
                            .find(|e| e.name == *name && !e.value.is_empty())?;
                        Some(Value {
                            name: (*name).to_owned(),
                            text: entry.value.clone(),
                            origin: Origin::Dotenv { path: dotenv_path.clone(), line: entry.line },
                        })
                    })
                })
                .or_else(|| {
                    let text = config.get(spec.toml_key).filter(|_| !spec.toml_key.is_empty())?;
                    let path = source
                        .config_file
                        .as_ref()
                        .map(|file| file.path.clone())
                        .unwrap_or_default();
                    (!text.is_empty()).then(|| Value {
                        name: primary.to_owned(),
                        text: text.clone(),
                        origin: Origin::ConfigFile { path, key: spec.toml_key.to_owned() },
                    })
                })
                .or_else(|| {
                    spec.default.map(|text| Value {
                        name: primary.to_owned(),
                        text: text.to_owned(),
                        origin: Origin::Default,
                    })
                });
            if let Some(value) = value {
                values.insert(primary, value);
            }
        }

        let environment = source
            .environment
            .iter()
            .map(|(name, _)| (name.as_str(), "the environment".to_owned()));
        let from_file = dotenv_entries
            .iter()
            .map(|e| (e.name.as_str(), format!("{} line {}", dotenv_path.display(), e.line)));
        warnings.extend(table.unknown_names(environment.chain(from_file)));
        if let Some(file) = &source.config_file {
            warnings.extend(table.unknown_keys(config.keys().map(String::as_str), &file.path));
        }
        Ok(Self { table, values, warnings, read: Mutex::default() })
    }

    /// What a person should be told once: unknown and ignored names, unreadable lines.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The value of `name`, parsed.
    ///
    /// # Errors
    /// [`SettingsError::Missing`] when it is unset, [`SettingsError::Invalid`] when it does not parse.
    pub fn get<T>(&self, name: &str) -> Result<T, SettingsError>
    where
        T: FromStr,
        T::Err: fmt::Display,
    {
        let spec = self.spec(name)?;
        self.get_opt(name)?.ok_or(SettingsError::Missing {
            name: spec.name(),
            help: spec.help,
            toml_key: spec.toml_key,
        })
    }

    /// The value of `name`, parsed, if any layer has it or there is a default.
    ///
    /// # Errors
    /// [`SettingsError::Invalid`] when it does not parse.
    pub fn get_opt<T>(&self, name: &str) -> Result<Option<T>, SettingsError>
    where
        T: FromStr,
        T::Err: fmt::Display,
    {
        self.parsed(name, |text| text.parse().map_err(|e: T::Err| e.to_string()))
    }

    /// The value of `name` as yes or no: `true`/`false`, `1`/`0`, `yes`/`no`, `on`/`off`, in any
    /// case. Unset is no.
    ///
    /// # Errors
    /// [`SettingsError::Invalid`] for any other text.
    pub fn flag(&self, name: &str) -> Result<bool, SettingsError> {
        self.parsed(name, |text| match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Ok(true),
            "false" | "0" | "no" | "off" => Ok(false),
            _ => Err("write true or false".to_owned()),
        })
        .map(Option::unwrap_or_default)
    }

    /// The value of `name` as a list: parts between commas, trimmed, empty ones dropped. Unset is
    /// an empty list.
    ///
    /// # Errors
    /// [`SettingsError::Invalid`] when a part does not parse.
    pub fn list<T>(&self, name: &str) -> Result<Vec<T>, SettingsError>
    where
        T: FromStr,
        T::Err: fmt::Display,
    {
        self.parsed(name, |text| {
            text.split(',')
                .map(str::trim)
                .filter(|part| !part.is_empty())
                .map(|part| {
                    part.parse()
                        .map_err(|e: T::Err| format!("{}: {e}", printable(part, SHOWN_VALUE)))
                })
                .collect()
        })
        .map(Option::unwrap_or_default)
    }

    /// The value of `name` checked by `parse`, for what has no `FromStr` of its own.
    ///
    /// # Errors
    /// [`SettingsError::Invalid`] with what `parse` said.
    pub fn parsed<T>(
        &self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, SettingsError> {
        let spec = self.spec(name)?;
        self.read.lock().unwrap_or_else(PoisonError::into_inner).insert(spec.name());
        let Some(value) = self.values.get(spec.name()) else {
            return Ok(None);
        };
        parse(value.text.trim()).map(Some).map_err(|reason| SettingsError::Invalid {
            name: value.name.clone(),
            value: printable(&value.text, SHOWN_VALUE),
            origin: Box::new(value.origin.clone()),
            expected: spec.expected,
            reason,
        })
    }

    /// An error about the value that `name` has, for checks that need more than the value itself
    /// (a range that ends before it begins). `reason` says what is wrong.
    #[must_use]
    pub fn invalid(&self, name: &str, reason: impl Into<String>) -> SettingsError {
        let Ok(spec) = self.spec(name) else {
            return SettingsError::NotInTable(name.to_owned());
        };
        match self.values.get(spec.name()) {
            None => SettingsError::Missing {
                name: spec.name(),
                help: spec.help,
                toml_key: spec.toml_key,
            },
            Some(value) => SettingsError::Invalid {
                name: value.name.clone(),
                value: printable(&value.text, SHOWN_VALUE),
                origin: Box::new(value.origin.clone()),
                expected: spec.expected,
                reason: reason.into(),
            },
        }
    }

    /// Where the value of `name` came from; `None` when it is unset.
    #[must_use]
    pub fn origin(&self, name: &str) -> Option<&Origin> {
        let spec = self.spec(name).ok()?;
        self.values.get(spec.name()).map(|value| &value.origin)
    }

    /// The settings that nothing has asked for since [`Settings::load`]. A test of each program
    /// shows that there are none: a setting that no code reads would be a lie.
    #[must_use]
    pub fn unread(&self) -> Vec<&'static str> {
        let read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        self.table
            .settings
            .iter()
            .map(SettingSpec::name)
            .filter(|name| !read.contains(name))
            .collect()
    }

    fn spec(&self, name: &str) -> Result<&'static SettingSpec, SettingsError> {
        let found = self.table.settings.iter().find(|spec| spec.names.contains(&name));
        found.ok_or_else(|| SettingsError::NotInTable(name.to_owned()))
    }
}

/// The environment's value for `spec`, and a warning when two of its names disagree.
fn from_environment(
    spec: &SettingSpec,
    source: &SettingsSource,
    warnings: &mut Vec<String>,
) -> Option<Value> {
    let mut found = spec.names.iter().filter_map(|name| {
        let (_, text) =
            source.environment.iter().find(|(key, value)| key == name && !value.is_empty())?;
        Some(Value { name: (*name).to_owned(), text: text.clone(), origin: Origin::Environment })
    });
    let first = found.next()?;
    for other in found.filter(|other| other.text != first.text) {
        warnings.push(format!(
            "{} and {} are both set and differ: {} is used",
            first.name, other.name, first.name
        ));
    }
    Some(first)
}

#[cfg(test)]
mod tests;
