//! The settings of `port-checker`.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use golem_vm_node::http::{PublicName, TrustedProxies};
use golem_vm_node::settings::{SettingSpec, Settings, SettingsError, SettingsTable};
use golem_vm_protocol::attestation::MAX_VALIDITY_SECONDS;

/// Every setting there is; docs/configuration.md lists the same.
pub static TABLE: SettingsTable = SettingsTable {
    service: "port-checker",
    prefixes: &["PORT_CHECKER_"],
    settings: &[
        SettingSpec {
            names: &["PORT_CHECKER_HOST"],
            toml_key: "host",
            default: Some("0.0.0.0"),
            expected: "an address or name of this machine",
            help: "where to listen",
        },
        SettingSpec {
            names: &["PORT_CHECKER_PORT"],
            toml_key: "port",
            default: Some("9000"),
            expected: "a port (0 to 65535; 0 takes any free one)",
            help: "the TCP port to listen on",
        },
        SettingSpec {
            names: &["PORT_CHECKER_PUBLIC_NAMES"],
            toml_key: "public_names",
            default: None,
            expected: "a list of host:port",
            help: "the names under which providers reach it; a signed request names one of them. \
                   Bound to loopback it also answers to 127.0.0.1, localhost and [::1]",
        },
        SettingSpec {
            names: &["PORT_CHECKER_DATA_DIR"],
            toml_key: "data_dir",
            default: None,
            expected: "a directory",
            help: "where its key is kept; the platform's data directory + golem/port-checker when unset",
        },
        SettingSpec {
            names: &["PORT_CHECKER_ALLOW_UNSIGNED"],
            toml_key: "allow_unsigned",
            default: Some("false"),
            expected: "true or false",
            help: "also serve the original's unsigned check, of any public address: needed by providers of \
                   the original, and usable by anyone as a port scanner",
        },
        SettingSpec {
            names: &["PORT_CHECKER_ALLOW_PRIVATE_ADDRESSES"],
            toml_key: "allow_private_addresses",
            default: Some("false"),
            expected: "true or false",
            help: "also dial loopback and private addresses: for a test network or a market on one machine, \
                   never for a port checker that strangers can reach",
        },
        SettingSpec {
            names: &["PORT_CHECKER_ATTESTATION_SECONDS"],
            toml_key: "attestation_seconds",
            default: Some("1800"),
            expected: "60 to 86400",
            help: "for how long its signed word about a provider's ports is good",
        },
        SettingSpec {
            names: &["PORT_CHECKER_TRUSTED_PROXIES"],
            toml_key: "trusted_proxies",
            default: None,
            expected: "a list of addresses and ranges, such as 127.0.0.1,10.0.0.0/8",
            help: "reverse proxies whose Forwarded or X-Forwarded-For header is believed; nobody else's is",
        },
        SettingSpec {
            names: &["PORT_CHECKER_CHECKS_PER_MINUTE"],
            toml_key: "checks_per_minute",
            default: Some("30"),
            expected: "a number, 0 for no limit",
            help: "checks of each address, and of each key, in a minute; more are answered 429",
        },
        SettingSpec {
            names: &["PORT_CHECKER_DEBUG"],
            toml_key: "debug",
            default: Some("false"),
            expected: "true or false",
            help: "log every request and probe",
        },
    ],
    ignored: &[],
};

/// The settings, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where to listen.
    pub host: String,
    /// The TCP port; 0 takes any free one.
    pub port: u16,
    /// The names under which it is reached.
    pub public_names: Vec<PublicName>,
    /// Where the key is kept; `None` is the platform's place.
    pub data_dir: Option<PathBuf>,
    /// Whether unsigned requests are served.
    pub allow_unsigned: bool,
    /// The reverse proxies whose word on the client's address is taken.
    pub trusted_proxies: TrustedProxies,
    /// Checks of each address, and of each key, in a minute; 0 is no limit.
    pub checks_per_minute: u32,
    /// Whether loopback and private addresses are dialled.
    pub allow_private: bool,
    /// For how long an attestation is good.
    pub attestation_validity: Duration,
    /// Whether to log more.
    pub debug: bool,
}

/// From a minute to what readers accept.
struct Seconds(Duration);

impl FromStr for Seconds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse()
            .ok()
            .filter(|seconds| (60..=MAX_VALIDITY_SECONDS).contains(seconds))
            .map(|seconds| Self(Duration::from_secs(seconds)))
            .ok_or_else(|| format!("whole seconds, 60 to {MAX_VALIDITY_SECONDS}"))
    }
}

impl Config {
    /// Reads every setting.
    ///
    /// # Errors
    /// The first setting that has no usable value.
    pub fn from_settings(settings: &Settings) -> Result<Self, SettingsError> {
        Ok(Self {
            host: settings.get("PORT_CHECKER_HOST")?,
            port: settings.get("PORT_CHECKER_PORT")?,
            public_names: settings.list("PORT_CHECKER_PUBLIC_NAMES")?,
            data_dir: settings.get_opt("PORT_CHECKER_DATA_DIR")?,
            allow_unsigned: settings.flag("PORT_CHECKER_ALLOW_UNSIGNED")?,
            trusted_proxies: TrustedProxies::new(settings.list("PORT_CHECKER_TRUSTED_PROXIES")?),
            checks_per_minute: settings.get("PORT_CHECKER_CHECKS_PER_MINUTE")?,
            allow_private: settings.flag("PORT_CHECKER_ALLOW_PRIVATE_ADDRESSES")?,
            attestation_validity: settings.get::<Seconds>("PORT_CHECKER_ATTESTATION_SECONDS")?.0,
            debug: settings.flag("PORT_CHECKER_DEBUG")?,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use golem_vm_node::settings::SettingsSource;

    use super::*;

    fn load(environment: &[(&str, &str)]) -> (Settings, Result<Config, SettingsError>) {
        let environment =
            environment.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        let source = SettingsSource { environment, ..SettingsSource::default() };
        let settings = Settings::load(&TABLE, source).unwrap();
        let config = Config::from_settings(&settings);
        (settings, config)
    }

    #[test]
    fn the_defaults_are_those_of_the_original_and_every_setting_is_read() {
        let (settings, config) = load(&[]);
        let config = config.unwrap();
        assert_eq!((config.host.as_str(), config.port), ("0.0.0.0", 9000));
        assert!(!config.allow_unsigned && !config.debug && config.public_names.is_empty());
        assert!(settings.unread().is_empty(), "{:?}", settings.unread());
    }

    #[test]
    fn a_wrong_value_is_named() {
        let (_, config) = load(&[("PORT_CHECKER_PUBLIC_NAMES", "http://a:1")]);
        let error = config.unwrap_err().to_string();
        assert!(
            error.starts_with("PORT_CHECKER_PUBLIC_NAMES=http://a:1 from the environment"),
            "{error}"
        );
    }
}
