//! `golem-provider config`: every setting with its value and origin. None of them is a secret: the
//! provider's key is a file of its own.

use std::path::PathBuf;
use std::process::ExitCode;

use golem_vm_node::settings::{Origin, Settings};
use golem_vm_protocol::text::printable;
use serde::Serialize;

use super::place::{self, PlaceArgs};
use super::table::Rows;
use super::terminal::{Style, Tone, print, print_json};
use crate::config::{Config, TABLE};

pub(super) const EXAMPLES: &str = "\
A flag of 'start' wins over the environment, that over .env in the working directory, that over the
config file, that over the default.

Examples:
  golem-provider config
  GOLEM_PROVIDER_PORT=7500 golem-provider config --json";

/// Longest value that is shown to a person, in characters.
const SHOWN_VALUE: usize = 200;

#[derive(Debug, Serialize)]
struct Shown {
    name: &'static str,
    value: Option<String>,
    origin: Option<String>,
    default: bool,
    config_key: &'static str,
    help: &'static str,
}

#[derive(Debug, Serialize)]
struct Everything {
    config_file: Option<PathBuf>,
    config_file_exists: bool,
    data_dir: PathBuf,
    settings: Vec<Shown>,
    warnings: Vec<String>,
    error: Option<String>,
}

pub(super) fn run(place: &PlaceArgs) -> anyhow::Result<ExitCode> {
    let settings = place.settings(Vec::new())?;
    let checked = Config::from_settings(&settings);
    let config_file = place.config_file();
    let everything = Everything {
        config_file_exists: config_file.as_ref().is_some_and(|path| path.is_file()),
        config_file,
        data_dir: place::data_path(&settings)?,
        settings: shown(&settings)?,
        warnings: settings.warnings().to_vec(),
        error: checked.as_ref().err().map(ToString::to_string),
    };
    if place.json {
        print_json(&everything)?;
    } else {
        print(&text(&everything, Style::of_stdout()));
    }
    // Said last, where it is seen.
    checked?;
    Ok(ExitCode::SUCCESS)
}

fn shown(settings: &Settings) -> anyhow::Result<Vec<Shown>> {
    let mut list = Vec::new();
    for spec in TABLE.settings {
        let origin = settings.origin(spec.name());
        list.push(Shown {
            name: spec.name(),
            value: settings.parsed(spec.name(), |text| Ok(text.to_owned()))?,
            default: matches!(origin, None | Some(Origin::Default)),
            origin: origin.map(ToString::to_string),
            config_key: spec.toml_key,
            help: spec.help,
        });
    }
    Ok(list)
}

fn text(everything: &Everything, style: Style) -> String {
    let mut rows = Rows::new(&["SETTING", "VALUE", "FROM"], style);
    for setting in &everything.settings {
        let value = setting
            .value
            .as_deref()
            .map_or_else(|| "–".to_owned(), |value| printable(value, SHOWN_VALUE));
        let origin = setting.origin.clone().unwrap_or_else(|| "not set".to_owned());
        let tone = if setting.default { Tone::Faint } else { Tone::Strong };
        rows.add([(setting.name.to_owned(), None), (value, Some(tone)), (origin, Some(tone))]);
    }
    let file = match &everything.config_file {
        Some(path) if everything.config_file_exists => path.display().to_string(),
        Some(path) => format!("{} (not there)", path.display()),
        None => "none: this user has no home directory".to_owned(),
    };
    let mut out = format!(
        "{}\nconfig file:    {file}\ndata directory: {}\n",
        rows.render(),
        everything.data_dir.display()
    );
    for warning in &everything.warnings {
        out.push_str(&format!("{} {warning}\n", style.paint(Tone::Warning, "warning:")));
    }
    out
}
