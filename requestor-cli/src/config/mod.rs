//! What the person has set: flag, environment, config file, default, in that order.
//!
//! `.env` is never read: a repository that somebody cloned must not redirect a renter.

pub mod file;
mod table;

use std::path::{Path, PathBuf};

use golem_vm_node::data_dir::{DataDir, config_file};
use golem_vm_node::settings::{Origin, Settings, SettingsSource};
use golem_vm_protocol::KeyId;
use reqwest::Url;

pub use table::{BASE_DIR, DB_PATH, DISCOVERY_URL, SSH_KEY_DIR, TABLE, TRUSTED_CHECKERS};

use crate::environment::Environment;
use crate::error::{CliError, Result};

/// What the command line said about settings.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--discovery-url`.
    pub discovery_url: Option<String>,
    /// `--base-dir`.
    pub base_dir: Option<PathBuf>,
}

/// The settings, resolved.
#[derive(Debug)]
pub struct Config {
    settings: Settings,
    /// The config file, whether or not it exists; `None` for a user without a home.
    pub file: Option<PathBuf>,
}

impl Config {
    /// Resolves all layers.
    ///
    /// # Errors
    /// When the config file can't be read.
    pub fn load(overrides: &Overrides, environment: &Environment) -> Result<Self> {
        let file = config_file(TABLE.service);
        let mut flags = Vec::new();
        if let Some(url) = &overrides.discovery_url {
            flags.push((DISCOVERY_URL.to_owned(), url.clone()));
        }
        if let Some(dir) = &overrides.base_dir {
            flags.push((BASE_DIR.to_owned(), dir.to_string_lossy().into_owned()));
        }
        let mut source = SettingsSource::from_process(flags, false, file.as_deref())?;
        source.environment = environment.variables().to_vec();
        Ok(Self { settings: Settings::load(&TABLE, source)?, file })
    }

    /// What a person should be told about the settings.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        self.settings.warnings()
    }

    /// The discovery server.
    ///
    /// # Errors
    /// When it is unset (there is no built-in one) or no usable address.
    pub fn discovery_url(&self) -> Result<Url> {
        self.discovery_url_if_set()?.ok_or_else(|| {
            CliError::usage(format!(
                "no discovery server is set ({DISCOVERY_URL}), so there is nobody to ask for providers"
            ))
            .hint("golem config set discovery-url http://HOST:9001")
        })
    }

    /// The discovery server, if one is set.
    ///
    /// # Errors
    /// When it is no usable address.
    pub fn discovery_url_if_set(&self) -> Result<Option<Url>> {
        Ok(self.settings.parsed(DISCOVERY_URL, parse_discovery_url)?)
    }

    /// The directory of key, state and known hosts; made if it is not there.
    ///
    /// # Errors
    /// When it can't be made or others can write to it.
    pub fn base_dir(&self) -> Result<DataDir> {
        let explicit = self.path(BASE_DIR)?;
        Ok(DataDir::resolve(explicit.as_deref(), TABLE.service, BASE_DIR)?)
    }

    /// The database of rented VMs.
    ///
    /// # Errors
    /// When the setting can't be read.
    pub fn db_path(&self, base: &Path) -> Result<PathBuf> {
        Ok(self.path(DB_PATH)?.unwrap_or_else(|| base.join("state.db")))
    }

    /// The directory of keys that golem makes.
    ///
    /// # Errors
    /// When the setting can't be read.
    pub fn ssh_key_dir(&self, base: &Path) -> Result<PathBuf> {
        let path = self.path(SSH_KEY_DIR)?.unwrap_or_else(|| base.join("ssh"));
        Ok(std::path::absolute(&path).unwrap_or(path))
    }

    /// The port checkers whose word counts; empty for everybody's.
    ///
    /// # Errors
    /// When one of them is no id.
    pub fn trusted_checkers(&self) -> Result<Vec<KeyId>> {
        Ok(self.settings.list(TRUSTED_CHECKERS)?)
    }

    /// The text of a setting, and where it came from.
    ///
    /// # Errors
    /// When `name` is no setting.
    pub fn text(&self, name: &str) -> Result<Option<(String, Origin)>> {
        let text = self.settings.parsed(name, |text| Ok(text.to_owned()))?;
        Ok(text.zip(self.settings.origin(name).cloned()))
    }

    /// The settings that no code has asked for; for the test that there are none.
    #[cfg(test)]
    fn unread(&self) -> Vec<&'static str> {
        self.settings.unread()
    }

    fn path(&self, name: &str) -> Result<Option<PathBuf>> {
        Ok(self.settings.parsed(name, |text| Ok(PathBuf::from(text)))?)
    }
}

/// Reads a discovery server's address.
///
/// # Errors
/// A sentence that says what is wrong with it.
pub fn parse_discovery_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| error.to_string())?;
    match url.scheme() {
        "http" => {}
        "https" => {
            return Err(
                "https is not spoken here; http is safe, for what discovery lists is signed \
                        by the providers themselves"
                    .to_owned(),
            );
        }
        other => return Err(format!("it begins with {other}:, not http:")),
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err("it names no host".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(
            "it holds a user name or a password, which no discovery server asks for".to_owned()
        );
    }
    if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
        return Err("it ends after the host and port, without a path".to_owned());
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn config(pairs: &[(&str, &str)]) -> Config {
        let environment = pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let source = SettingsSource { environment, ..SettingsSource::default() };
        Config { settings: Settings::load(&TABLE, source).unwrap(), file: None }
    }

    #[test]
    fn every_setting_is_read_by_some_code() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(&[(BASE_DIR, dir.path().join("base").to_str().unwrap())]);
        config.discovery_url_if_set().unwrap();
        config.base_dir().unwrap();
        config.db_path(Path::new("/x")).unwrap();
        config.ssh_key_dir(Path::new("/x")).unwrap();
        config.trusted_checkers().unwrap();
        assert_eq!(config.unread(), Vec::<&str>::new());
    }

    #[test]
    fn without_a_discovery_server_the_setting_is_named() {
        let error = config(&[]).discovery_url().unwrap_err();
        assert!(error.message.contains(DISCOVERY_URL));
        assert_eq!(error.hints, ["golem config set discovery-url http://HOST:9001"]);
    }

    #[test]
    fn addresses_are_checked() {
        assert!(parse_discovery_url("http://127.0.0.1:9001").is_ok());
        assert!(parse_discovery_url("http://[::1]:9001/").is_ok());
        assert!(parse_discovery_url("http://me:secret@127.0.0.1:9001").is_err());
        for bad in ["", "discovery:9001", "https://x", "ftp://x", "http://x/api", "http://x?y", "x"]
        {
            assert!(parse_discovery_url(bad).is_err(), "{bad}");
        }
        let error = config(&[(DISCOVERY_URL, "https://x\x1b")]).discovery_url().unwrap_err();
        assert!(error.message.contains("from the environment"), "{error}");
        assert!(!error.message.contains('\x1b'));
    }

    #[test]
    fn the_readme_lists_these_settings_and_exit_codes() {
        let readme = include_str!("../../README.md");
        assert!(readme.contains(&TABLE.markdown()), "expected:\n{}", TABLE.markdown());
        assert!(
            readme.contains(&TABLE.markdown_ignored()),
            "expected:\n{}",
            TABLE.markdown_ignored()
        );
        for line in crate::error::EXIT_CODES.lines().filter(|line| line.starts_with("  ")) {
            assert!(readme.contains(line), "{line}");
        }
    }

    #[test]
    fn settings_of_the_original_without_a_meaning_are_told() {
        let config =
            config(&[("GOLEM_REQUESTOR_NETWORK", "x"), ("GOLEM_REQUESTOR_DISCOVERY_UR", "x")]);
        let warnings = config.warnings().join("\n");
        assert!(warnings.contains("GOLEM_REQUESTOR_NETWORK"), "{warnings}");
        assert!(warnings.contains("did you mean GOLEM_REQUESTOR_DISCOVERY_URL?"), "{warnings}");
    }
}
