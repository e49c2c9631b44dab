//! Which provider is meant: its data directory, and the settings that go with it.

use std::path::{Path, PathBuf};

use clap::Args;
use golem_vm_node::data_dir::{self, DataDir};
use golem_vm_node::settings::{Settings, SettingsSource};

use super::exit_code::Coded;
use crate::config::{Config, TABLE};

/// The setting that names the data directory.
pub(super) const DATA_DIR: &str = "GOLEM_PROVIDER_DATA_DIR";

/// What every command takes.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct PlaceArgs {
    /// Directory for key, database, sockets and logs [env: GOLEM_PROVIDER_DATA_DIR] [default: the platform's data directory + golem/provider]
    #[arg(long, global = true, value_name = "DIR")]
    pub(super) data_dir: Option<PathBuf>,
    /// Config file [default: the platform's config directory + golem/provider.toml]
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Print JSON, for programs
    #[arg(long, global = true)]
    pub(super) json: bool,
}

impl PlaceArgs {
    /// The config file that is read, if there is one.
    pub(super) fn config_file(&self) -> Option<PathBuf> {
        self.config.clone().or_else(|| data_dir::config_file(TABLE.service))
    }

    /// The settings, with `flags` above the other layers.
    pub(super) fn settings(&self, mut flags: Vec<(String, String)>) -> anyhow::Result<Settings> {
        if let Some(path) = self.config.as_ref().filter(|path| !path.is_file()) {
            return Err(Coded::usage(format!("there is no config file {}", path.display())).into());
        }
        if let Some(dir) = &self.data_dir {
            let Some(text) = dir.to_str() else {
                return Err(Coded::usage("--data-dir has to be UTF-8").into());
            };
            if text.is_empty() {
                return Err(Coded::usage("--data-dir names no directory").into());
            }
            flags.push((DATA_DIR.to_owned(), text.to_owned()));
        }
        let source = SettingsSource::from_process(flags, true, self.config_file().as_deref())?;
        Ok(Settings::load(&TABLE, source)?)
    }

    /// The path of the data directory. Only that setting is looked at, and nothing is created.
    pub(super) fn data_path(&self) -> anyhow::Result<PathBuf> {
        data_path(&self.settings(Vec::new())?)
    }

    /// All settings, checked, and the data directory, made if it is not there.
    pub(super) fn open(&self) -> anyhow::Result<(Config, DataDir)> {
        let settings = self.settings(Vec::new())?;
        let config = Config::from_settings(&settings)?;
        let data_dir = open_data_dir(config.data_dir.as_deref())?;
        Ok((config, data_dir))
    }
}

/// The path of the data directory that the settings name.
pub(super) fn data_path(settings: &Settings) -> anyhow::Result<PathBuf> {
    let path = match settings.get_opt::<PathBuf>(DATA_DIR)? {
        Some(path) => path,
        None => DataDir::default_path(TABLE.service, DATA_DIR)?,
    };
    Ok(std::path::absolute(&path).unwrap_or(path))
}

/// The data directory, made if it is not there.
pub(super) fn open_data_dir(explicit: Option<&Path>) -> anyhow::Result<DataDir> {
    Ok(DataDir::resolve(explicit, TABLE.service, DATA_DIR)?)
}
