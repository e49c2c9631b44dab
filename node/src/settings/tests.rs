#![allow(clippy::unwrap_used)]
use super::*;

static TABLE: SettingsTable = SettingsTable {
    service: "discovery",
    prefixes: &["GOLEM_DISCOVERY_", "DISCOVERY_"],
    settings: &[
        SettingSpec {
            names: &["GOLEM_DISCOVERY_PORT", "DISCOVERY_PORT", "DISCOVERY_SERVER_PORT"],
            toml_key: "port",
            default: Some("9001"),
            expected: "a port (0 to 65535)",
            help: "the TCP port",
        },
        SettingSpec {
            names: &["GOLEM_DISCOVERY_NAMES"],
            toml_key: "public.names",
            default: None,
            expected: "a list of host:port",
            help: "names it is reached by",
        },
        SettingSpec {
            names: &["GOLEM_DISCOVERY_DEBUG"],
            toml_key: "",
            default: Some("false"),
            expected: "true or false",
            help: "say more",
        },
    ],
    ignored: &[IgnoredSetting { name: "GOLEM_DISCOVERY_SECRET_KEY", reason: "never used" }],
};

fn source() -> SettingsSource {
    SettingsSource::default()
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
}

fn file(path: &str, text: &str) -> Option<SourceText> {
    Some(SourceText { path: path.into(), text: text.to_owned() })
}

fn port(source: SettingsSource) -> u16 {
    Settings::load(&TABLE, source).unwrap().get("GOLEM_DISCOVERY_PORT").unwrap()
}

#[test]
fn each_layer_gives_way_to_the_one_above() {
    let mut layers = source();
    assert_eq!(port(layers.clone()), 9001);
    layers.config_file = file("c.toml", "port = 1");
    assert_eq!(port(layers.clone()), 1);
    layers.dotenv = file(".env", "DISCOVERY_SERVER_PORT=2");
    assert_eq!(port(layers.clone()), 2);
    layers.environment = pairs(&[("DISCOVERY_PORT", "3")]);
    assert_eq!(port(layers.clone()), 3);
    layers.flags = pairs(&[("GOLEM_DISCOVERY_PORT", "4")]);
    assert_eq!(port(layers), 4);
}

#[test]
fn the_first_name_wins_within_a_layer_and_a_contradiction_is_told() {
    let layers = SettingsSource {
        environment: pairs(&[("DISCOVERY_PORT", "3"), ("GOLEM_DISCOVERY_PORT", "5")]),
        ..source()
    };
    let settings = Settings::load(&TABLE, layers).unwrap();
    assert_eq!(settings.get::<u16>("DISCOVERY_PORT").unwrap(), 5);
    assert_eq!(
        settings.warnings(),
        [
            "GOLEM_DISCOVERY_PORT and DISCOVERY_PORT are both set and differ: GOLEM_DISCOVERY_PORT is used"
        ]
    );
}

#[test]
fn an_error_names_the_setting_its_value_and_its_line() {
    let layers = SettingsSource { dotenv: file(".env", "# x\n\nDISCOVERY_PORT=abc\n"), ..source() };
    let settings = Settings::load(&TABLE, layers).unwrap();
    assert_eq!(
        settings.get::<u16>("GOLEM_DISCOVERY_PORT").unwrap_err().to_string(),
        "DISCOVERY_PORT=abc from .env line 3 is not a port (0 to 65535): invalid digit found in string"
    );
}

#[test]
fn an_empty_value_counts_as_unset() {
    let layers = SettingsSource { environment: pairs(&[("GOLEM_DISCOVERY_PORT", "")]), ..source() };
    assert_eq!(port(layers), 9001);
}

#[test]
fn what_is_missing_says_how_to_set_it() {
    let settings = Settings::load(&TABLE, source()).unwrap();
    assert_eq!(
        settings.get::<String>("GOLEM_DISCOVERY_NAMES").unwrap_err().to_string(),
        "GOLEM_DISCOVERY_NAMES is not set: names it is reached by. Set it in the environment, \
         or as \"public.names\" in the config file"
    );
    assert!(settings.list::<String>("GOLEM_DISCOVERY_NAMES").unwrap().is_empty());
}

#[test]
fn lists_come_from_commas_and_from_toml_lists() {
    let layers = SettingsSource {
        config_file: file("c.toml", "[public]\nnames = [\"a:1\", \"b:2\"]"),
        ..source()
    };
    let settings = Settings::load(&TABLE, layers).unwrap();
    assert_eq!(settings.list::<String>("GOLEM_DISCOVERY_NAMES").unwrap(), ["a:1", "b:2"]);
    let origin = settings.origin("GOLEM_DISCOVERY_NAMES").unwrap();
    assert_eq!(origin.to_string(), "from \"public.names\" in c.toml");
    let layers = SettingsSource {
        environment: pairs(&[("GOLEM_DISCOVERY_NAMES", " a:1 ,, b:2,")]),
        ..source()
    };
    let settings = Settings::load(&TABLE, layers).unwrap();
    assert_eq!(settings.list::<String>("GOLEM_DISCOVERY_NAMES").unwrap(), ["a:1", "b:2"]);
}

#[test]
fn yes_and_no_have_several_spellings() {
    for (text, expected) in
        [("TRUE", true), ("1", true), ("yes", true), ("0", false), ("No", false), ("off", false)]
    {
        let layers =
            SettingsSource { environment: pairs(&[("GOLEM_DISCOVERY_DEBUG", text)]), ..source() };
        assert_eq!(
            Settings::load(&TABLE, layers).unwrap().flag("GOLEM_DISCOVERY_DEBUG").unwrap(),
            expected
        );
    }
    let layers =
        SettingsSource { environment: pairs(&[("GOLEM_DISCOVERY_DEBUG", "maybe")]), ..source() };
    let settings = Settings::load(&TABLE, layers).unwrap();
    assert!(settings.flag("GOLEM_DISCOVERY_DEBUG").is_err());
}

#[test]
fn unknown_and_ignored_names_are_told_once() {
    let layers = SettingsSource {
        environment: pairs(&[
            ("GOLEM_DISCOVERY_PROT", "1"),
            ("GOLEM_DISCOVERY_SECRET_KEY", "x"),
            ("PATH", "y"),
        ]),
        dotenv: file(".env", "GOLEM_DISCOVERY_SECRET_KEY=z\nGOLEM_PROVIDER_PORT=1"),
        config_file: file("c.toml", "prot = 1"),
        ..source()
    };
    let settings = Settings::load(&TABLE, layers).unwrap();
    assert_eq!(
        settings.warnings(),
        [
            "GOLEM_DISCOVERY_PROT (the environment) is no setting of this program; did you mean GOLEM_DISCOVERY_PORT?",
            "GOLEM_DISCOVERY_SECRET_KEY (the environment) has no effect: never used",
            "\"prot\" in c.toml is no setting of this program; did you mean \"port\"?",
        ]
    );
}

#[test]
fn a_config_file_that_is_no_toml_is_an_error() {
    let layers = SettingsSource { config_file: file("c.toml", "port = ["), ..source() };
    let error = Settings::load(&TABLE, layers).unwrap_err().to_string();
    assert!(error.starts_with("can't use c.toml: "), "{error}");
}

#[test]
fn what_is_never_asked_for_shows() {
    let settings = Settings::load(&TABLE, source()).unwrap();
    let _ = settings.get::<u16>("DISCOVERY_PORT");
    assert_eq!(settings.unread(), ["GOLEM_DISCOVERY_NAMES", "GOLEM_DISCOVERY_DEBUG"]);
    assert!(matches!(settings.get::<u16>("NOPE"), Err(SettingsError::NotInTable(_))));
}

#[test]
fn terminal_escapes_in_a_value_are_not_repeated() {
    let layers =
        SettingsSource { environment: pairs(&[("DISCOVERY_PORT", "\x1b[31m9")]), ..source() };
    let settings = Settings::load(&TABLE, layers).unwrap();
    assert!(!settings.get::<u16>("DISCOVERY_PORT").unwrap_err().to_string().contains('\x1b'));
}

#[test]
fn the_table_writes_its_own_documentation() {
    let markdown = TABLE.markdown();
    assert!(markdown.contains(
        "| `GOLEM_DISCOVERY_PORT`, also `DISCOVERY_PORT`, also `DISCOVERY_SERVER_PORT` | `port` | `9001` | the TCP port"
    ));
    assert!(TABLE.markdown_ignored().contains("| `GOLEM_DISCOVERY_SECRET_KEY` | never used |"));
}
