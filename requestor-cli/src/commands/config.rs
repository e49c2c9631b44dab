//! `golem config`

use golem_vm_node::settings::{Origin, SettingSpec, closest};
use golem_vm_protocol::text::printable;
use serde_json::json;

use crate::app::App;
use crate::args::ConfigCommand;
use crate::config::{DISCOVERY_URL, TABLE, file, parse_discovery_url};
use crate::error::{CliError, Result};

pub(super) fn run(app: &App<'_>, command: ConfigCommand) -> Result<()> {
    match command {
        ConfigCommand::Get { key } => get(app, &key),
        ConfigCommand::Set { key, value } => set(app, &key, &value),
        ConfigCommand::Unset { key } => {
            let spec = setting(&key)?;
            file::change(path(app)?, spec.toml_key, None)?;
            app.ui.note(&format!("{} is no longer set in {}", spec.toml_key, path(app)?.display()));
            Ok(())
        }
        ConfigCommand::List => list(app),
        ConfigCommand::Path => {
            let path = path(app)?;
            if app.ui.is_json() {
                app.ui.json(&json!({ "path": path }))
            } else {
                app.ui.line(&path.display().to_string())
            }
        }
    }
}

fn path<'a>(app: &'a App<'_>) -> Result<&'a std::path::Path> {
    app.config.file.as_deref().ok_or_else(|| {
        CliError::other("this user has no home directory, so there is no config file")
    })
}

/// The setting of that key; its environment variable's name is taken too.
fn setting(key: &str) -> Result<&'static SettingSpec> {
    let found =
        TABLE.settings.iter().find(|spec| spec.toml_key == key || spec.names.contains(&key));
    found.ok_or_else(|| {
        let keys: Vec<&str> = TABLE.settings.iter().map(|spec| spec.toml_key).collect();
        let error = CliError::usage(format!("there is no setting called '{}'", printable(key, 80)));
        match closest(key, &keys) {
            Some(near) => error.hint(format!("did you mean '{near}'?")),
            None => error.hint(format!("the settings are: {}", keys.join(", "))),
        }
    })
}

fn get(app: &App<'_>, key: &str) -> Result<()> {
    let spec = setting(key)?;
    let Some((value, origin)) = app.config.text(spec.name())? else {
        return Err(CliError::not_found(format!("{} is not set", spec.toml_key))
            .hint(format!("golem config set {} VALUE", spec.toml_key)));
    };
    if app.ui.is_json() {
        let origin = origin.to_string();
        app.ui.json(&json!({ "key": spec.toml_key, "value": value, "origin": origin }))
    } else {
        app.ui.line(&printable(&value, 4096))
    }
}

fn set(app: &App<'_>, key: &str, value: &str) -> Result<()> {
    let spec = setting(key)?;
    let wrong = |reason: &str| {
        CliError::usage(format!("'{}' is not {}", printable(value, 80), spec.expected))
            .because(printable(reason, 200))
    };
    if spec.name() == DISCOVERY_URL {
        parse_discovery_url(value).map_err(|reason| wrong(&reason))?;
    } else if value.trim().is_empty() {
        return Err(wrong("it is empty"));
    }
    file::change(path(app)?, spec.toml_key, Some(value))?;
    app.ui.note(&format!("{} is set in {}", spec.toml_key, path(app)?.display()));
    if let Some((_, Origin::Environment)) = app.config.text(spec.name())? {
        app.ui.warn(&format!("{} is set in the environment too, and wins", spec.name()));
    }
    Ok(())
}

fn list(app: &App<'_>) -> Result<()> {
    for warning in app.config.warnings() {
        app.ui.warn(warning);
    }
    let mut entries = Vec::new();
    for spec in TABLE.settings {
        entries.push((spec, app.config.text(spec.name())?));
    }
    if app.ui.is_json() {
        let settings: Vec<_> = entries
            .iter()
            .map(|(spec, found)| {
                json!({
                    "key": spec.toml_key,
                    "environment": spec.name(),
                    "value": found.as_ref().map(|(value, _)| value),
                    "origin": found.as_ref().map(|(_, origin)| origin.to_string()),
                })
            })
            .collect();
        return app.ui.json(&json!({ "settings": settings }));
    }
    let mut table = crate::table::Columns::new(&["Setting", "Value", "From", "Environment"]);
    for (spec, found) in entries {
        let (value, origin) = found.map_or_else(
            || ("(not set)".to_owned(), "-".to_owned()),
            |(value, origin)| (printable(&value, 200), origin.to_string()),
        );
        table.row(vec![spec.toml_key.to_owned(), value, origin, spec.name().to_owned()]);
    }
    app.ui.out(&table.render(&app.ui, "⚙ Settings"))
}
