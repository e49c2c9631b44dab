//! Where settings are read from, before they mean anything.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::SettingsError;

/// Largest settings file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// A file's text and where it was found.
#[derive(Debug, Clone)]
pub struct SourceText {
    /// The file, for messages.
    pub path: PathBuf,
    /// What it says.
    pub text: String,
}

/// The layers above the defaults. All fields may be empty; tests fill in what they need.
#[derive(Debug, Clone, Default)]
pub struct SettingsSource {
    /// From the command line: (setting name, value). The last one of a name wins.
    pub flags: Vec<(String, String)>,
    /// The environment.
    pub environment: Vec<(String, String)>,
    /// `.env` of the working directory. Services only: a cloned repository must not redirect the CLI.
    pub dotenv: Option<SourceText>,
    /// The config file.
    pub config_file: Option<SourceText>,
    /// What went wrong with a layer that may be missing; becomes [`super::Settings::warnings`].
    pub warnings: Vec<String>,
}

impl SettingsSource {
    /// The layers of this process: its environment, `.env` in the working directory if `dotenv`,
    /// and `config_file` if it exists. A value of the environment that is not UTF-8 is taken with
    /// replacement characters, so that whatever parses it refuses it and names it.
    ///
    /// # Errors
    /// [`SettingsError::File`] when the config file exists and can't be read. A `.env` that can't
    /// be read is a warning.
    pub fn from_process(
        flags: Vec<(String, String)>,
        dotenv: bool,
        config_file: Option<&Path>,
    ) -> Result<Self, SettingsError> {
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| {
                Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
            })
            .collect();
        let mut source = Self { flags, environment, ..Self::default() };
        if dotenv {
            match read_if_there(Path::new(".env")) {
                Ok(file) => source.dotenv = file,
                Err(error) => source.warnings.push(format!("{error}; it is ignored")),
            }
        }
        if let Some(path) = config_file {
            source.config_file = read_if_there(path)?;
        }
        Ok(source)
    }
}

fn read_if_there(path: &Path) -> Result<Option<SourceText>, SettingsError> {
    let error = |reason: String| SettingsError::File { path: path.to_owned(), reason };
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(e)
            if matches!(
                e.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(None);
        }
        Err(e) => return Err(error(e.to_string())),
    };
    let mut text = String::new();
    let read =
        file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(|e| error(e.to_string()))?;
    if read as u64 > MAX_FILE {
        return Err(error(format!("it is larger than {MAX_FILE} bytes")));
    }
    Ok(Some(SourceText { path: path.to_owned(), text }))
}
