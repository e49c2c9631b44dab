//! The config file: TOML, its tables flattened to dotted keys.

use std::collections::BTreeMap;

use super::{SettingsError, SourceText};

/// Reads the TOML text into dotted keys and the text of their values; lists are joined by commas.
pub(super) fn parse(file: &SourceText) -> Result<BTreeMap<String, String>, SettingsError> {
    let error = |reason: String| SettingsError::File { path: file.path.clone(), reason };
    let table: toml::Table =
        file.text.parse().map_err(|e: toml::de::Error| error(e.to_string().trim().to_owned()))?;
    let mut out = BTreeMap::new();
    flatten("", &table, &mut out).map_err(error)?;
    Ok(out)
}

fn flatten(
    prefix: &str,
    table: &toml::Table,
    out: &mut BTreeMap<String, String>,
) -> Result<(), String> {
    for (key, value) in table {
        let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        match value {
            toml::Value::Table(inner) => flatten(&key, inner, out)?,
            toml::Value::Array(items) => {
                let texts: Result<Vec<_>, _> =
                    items.iter().map(|item| scalar(&key, item)).collect();
                let texts = texts?;
                if let Some(text) = texts.iter().find(|text| text.contains(',')) {
                    return Err(format!(
                        "\"{key}\" holds {text:?}: a part of a list can't contain a comma"
                    ));
                }
                out.insert(key, texts.join(","));
            }
            other => {
                let text = scalar(&key, other)?;
                out.insert(key, text);
            }
        }
    }
    Ok(())
}

fn scalar(key: &str, value: &toml::Value) -> Result<String, String> {
    match value {
        toml::Value::String(text) => Ok(text.clone()),
        toml::Value::Integer(number) => Ok(number.to_string()),
        toml::Value::Float(number) => Ok(number.to_string()),
        toml::Value::Boolean(yes) => Ok(yes.to_string()),
        toml::Value::Datetime(_) | toml::Value::Array(_) | toml::Value::Table(_) => {
            Err(format!("\"{key}\" is neither text, a number, true, false nor a list of these"))
        }
    }
}
