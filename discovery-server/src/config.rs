//! What this program can be told, and by which name.

use std::path::{Path, PathBuf};
use std::time::Duration;

use golem_vm_node::http::{CallsPerMinute, PublicName, TrustedProxies};
use golem_vm_node::settings::{
    IgnoredSetting, SettingSpec, Settings, SettingsError, SettingsTable,
};
use golem_vm_node::sqlite;

use crate::registry::Policy;
use crate::registry::crowd::Bounds;
use crate::registry::endpoints::EndpointPolicy;

/// Where it listens.
pub const HOST: &str = "GOLEM_DISCOVERY_HOST";
/// On which port.
pub const PORT: &str = "GOLEM_DISCOVERY_PORT";
/// Whether it logs more.
pub const DEBUG: &str = "GOLEM_DISCOVERY_DEBUG";
/// Where its state is.
pub const DATABASE_DIR: &str = "GOLEM_DISCOVERY_DATABASE_DIR";
/// The database's file name in there.
pub const DATABASE_NAME: &str = "GOLEM_DISCOVERY_DATABASE_NAME";
/// The database somewhere else.
pub const DATABASE_URL: &str = "GOLEM_DISCOVERY_DATABASE_URL";
/// How often expired rows are cleared away at most.
pub const CLEANUP_INTERVAL: &str = "GOLEM_DISCOVERY_CLEANUP_INTERVAL_SECONDS";
/// How long an advertisement lasts.
pub const EXPIRY: &str = "GOLEM_DISCOVERY_ADVERTISEMENT_EXPIRY_MINUTES";
/// What it is called.
pub const PUBLIC_NAMES: &str = "GOLEM_DISCOVERY_PUBLIC_NAMES";
/// How many providers one address may have listed.
pub const MAX_PER_ADDRESS: &str = "GOLEM_DISCOVERY_MAX_PROVIDERS_PER_ADDRESS";
/// How many are listed in all.
pub const MAX_PROVIDERS: &str = "GOLEM_DISCOVERY_MAX_PROVIDERS";
/// Whose attestations are accepted.
pub const PORT_CHECKERS: &str = "GOLEM_DISCOVERY_PORT_CHECKERS";
/// Whether endpoints count without a proof.
pub const UNPROVEN_ENDPOINTS: &str = "GOLEM_DISCOVERY_UNPROVEN_ENDPOINTS";
/// Whose word on a client's address is taken.
pub const TRUSTED_PROXIES: &str = "GOLEM_DISCOVERY_TRUSTED_PROXIES";
/// How often somebody may look up one entry.
pub const READS_PER_MINUTE: &str = "GOLEM_DISCOVERY_READS_PER_MINUTE";
/// How often somebody may search.
pub const SEARCHES_PER_MINUTE: &str = "GOLEM_DISCOVERY_SEARCHES_PER_MINUTE";
/// How often somebody may publish or withdraw.
pub const WRITES_PER_MINUTE: &str = "GOLEM_DISCOVERY_WRITES_PER_MINUTE";
/// Whether unsigned providers are served.
pub const ALLOW_UNSIGNED: &str = "GOLEM_DISCOVERY_ALLOW_UNSIGNED";

/// Every setting of golem-discovery.
pub static SETTINGS: SettingsTable = SettingsTable {
    service: "discovery",
    prefixes: &["GOLEM_DISCOVERY_", "DISCOVERY_"],
    settings: &[
        SettingSpec {
            names: &[HOST, "DISCOVERY_HOST"],
            toml_key: "host",
            default: Some("0.0.0.0"),
            expected: "an address or name of this machine",
            help: "the address to listen on",
        },
        SettingSpec {
            names: &[PORT, "DISCOVERY_PORT"],
            toml_key: "port",
            default: Some("9001"),
            expected: "a port from 0 to 65535, 0 for any",
            help: "the TCP port to listen on",
        },
        SettingSpec {
            names: &[PUBLIC_NAMES, "DISCOVERY_PUBLIC_NAMES"],
            toml_key: "public_names",
            default: None,
            expected: "a list of host:port",
            help: "the names under which providers and requestors reach this server, which signed requests \
                   must name; on loopback its own address is always accepted",
        },
        SettingSpec {
            names: &[ALLOW_UNSIGNED, "DISCOVERY_ALLOW_UNSIGNED"],
            toml_key: "allow_unsigned",
            default: Some("false"),
            expected: "true or false",
            help: "serve providers that do not sign (the Python original's); they are listed as unverified",
        },
        SettingSpec {
            names: &[PORT_CHECKERS, "DISCOVERY_PORT_CHECKERS"],
            toml_key: "port_checkers",
            default: None,
            expected: "a list of port checkers' ids",
            help: "port checkers whose attestations show that an endpoint is its provider's; without one, every \
                   endpoint has to be the address that the advertisement comes from",
        },
        SettingSpec {
            names: &[UNPROVEN_ENDPOINTS, "DISCOVERY_UNPROVEN_ENDPOINTS"],
            toml_key: "unproven_endpoints",
            default: Some("false"),
            expected: "true or false",
            help: "list whatever endpoints providers name: for closed test networks only",
        },
        SettingSpec {
            names: &[MAX_PER_ADDRESS, "DISCOVERY_MAX_PROVIDERS_PER_ADDRESS"],
            toml_key: "max_providers_per_address",
            default: Some("16"),
            expected: "a number, 0 for no limit",
            help: "providers listed from one IPv4 address or IPv6 /64 at a time; this machine itself \
                   (127.0.0.1, ::1) is not counted",
        },
        SettingSpec {
            names: &[MAX_PROVIDERS, "DISCOVERY_MAX_PROVIDERS"],
            toml_key: "max_providers",
            default: Some("20000"),
            expected: "a number from 1 to 1000000",
            help: "providers listed in all; at up to 25 KB of memory each",
        },
        SettingSpec {
            names: &[TRUSTED_PROXIES, "DISCOVERY_TRUSTED_PROXIES"],
            toml_key: "trusted_proxies",
            default: None,
            expected: "a list of addresses and ranges, such as 127.0.0.1,10.0.0.0/8",
            help: "reverse proxies whose Forwarded or X-Forwarded-For header is believed; nobody else's is",
        },
        SettingSpec {
            names: &[SEARCHES_PER_MINUTE, "DISCOVERY_SEARCHES_PER_MINUTE"],
            toml_key: "searches_per_minute",
            default: Some("120"),
            expected: "a number, 0 for no limit",
            help: "searches of each address, and of each key, in a minute; more are answered 429",
        },
        SettingSpec {
            names: &[READS_PER_MINUTE, "DISCOVERY_READS_PER_MINUTE"],
            toml_key: "reads_per_minute",
            default: Some("600"),
            expected: "a number, 0 for no limit",
            help: "other look-ups of each address, and of each key, in a minute",
        },
        SettingSpec {
            names: &[WRITES_PER_MINUTE, "DISCOVERY_WRITES_PER_MINUTE"],
            toml_key: "writes_per_minute",
            default: Some("120"),
            expected: "a number, 0 for no limit",
            help: "publications and withdrawals of each address, and of each key, in a minute",
        },
        SettingSpec {
            names: &[EXPIRY, "DISCOVERY_ADVERTISEMENT_EXPIRY_MINUTES"],
            toml_key: "advertisement_expiry_minutes",
            default: Some("5"),
            expected: "a number of minutes from 1 to 1440",
            help: "how long an advertisement is listed after its last refresh",
        },
        SettingSpec {
            names: &[CLEANUP_INTERVAL, "DISCOVERY_CLEANUP_INTERVAL_SECONDS"],
            toml_key: "cleanup_interval_seconds",
            default: Some("60"),
            expected: "a number of seconds from 1 to 86400",
            help: "the least time between two clearings of expired advertisements from memory and database \
                   (they are never listed, cleared or not)",
        },
        SettingSpec {
            names: &[DATABASE_DIR, "DISCOVERY_DATABASE_DIR"],
            toml_key: "database_dir",
            default: None,
            expected: "a directory",
            help: "the directory of key, database and lock; without it the platform's data directory + \
                   golem/discovery",
        },
        SettingSpec {
            names: &[DATABASE_NAME, "DISCOVERY_DATABASE_NAME"],
            toml_key: "database_name",
            default: Some("state.db"),
            expected: "a file name",
            help: "the database's file name in that directory",
        },
        SettingSpec {
            names: &[DATABASE_URL, "DISCOVERY_DB_URL", "DISCOVERY_DATABASE_URL"],
            toml_key: "database_url",
            default: None,
            expected: "sqlite:///relative.db or sqlite:////absolute.db",
            help: "the database somewhere else; it wins over directory and name",
        },
        SettingSpec {
            names: &[DEBUG, "DISCOVERY_DEBUG"],
            toml_key: "debug",
            default: Some("false"),
            expected: "true or false",
            help: "log every request (RUST_LOG, if set, decides instead)",
        },
    ],
    ignored: &[
        IgnoredSetting {
            name: "GOLEM_DISCOVERY_RATE_LIMIT_PER_MINUTE",
            reason: "searches, reads and writes have limits of their own, GOLEM_DISCOVERY_…_PER_MINUTE",
        },
        IgnoredSetting {
            name: "GOLEM_DISCOVERY_SECRET_KEY",
            reason: "the server's identity is the key file in its data directory",
        },
    ],
};

/// The settings, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where to listen.
    pub host: String,
    /// On which port; 0 lets the system choose.
    pub port: u16,
    /// Whether to log every request.
    pub debug: bool,
    /// The data directory, if one is named.
    pub data_dir: Option<PathBuf>,
    /// The database's file name in it.
    pub database_name: String,
    /// The database, if it is somewhere else.
    pub database: Option<PathBuf>,
    /// The least time between two sweeps.
    pub cleanup_interval: Duration,
    /// How long an advertisement is listed, how many of them, and with which endpoints.
    pub policy: Policy,
    /// The `host:port` names that signed requests may be meant for.
    pub public_names: Vec<String>,
    /// Whether unsigned providers are served.
    pub allow_unsigned: bool,
    /// The reverse proxies whose word on the client's address is taken.
    pub trusted_proxies: TrustedProxies,
    /// How often the service may be asked by each address and each key.
    pub rates: CallsPerMinute,
}

impl Config {
    /// Reads and checks every setting.
    ///
    /// # Errors
    /// [`SettingsError`] about the first one that can't be used.
    pub fn from_settings(settings: &Settings) -> Result<Self, SettingsError> {
        let minutes = settings.parsed(EXPIRY, |text| number(text, 1, 1440))?.unwrap_or(5);
        let total =
            settings.parsed(MAX_PROVIDERS, |text| number(text, 1, 1_000_000))?.unwrap_or(20_000);
        let seconds =
            settings.parsed(CLEANUP_INTERVAL, |text| number(text, 1, 86_400))?.unwrap_or(60);
        Ok(Self {
            host: settings.get(HOST)?,
            port: settings.get(PORT)?,
            debug: settings.flag(DEBUG)?,
            data_dir: settings.get_opt::<PathBuf>(DATABASE_DIR)?,
            database_name: settings.parsed(DATABASE_NAME, file_name)?.unwrap_or_default(),
            database: settings.parsed(DATABASE_URL, sqlite::parse_url)?,
            cleanup_interval: Duration::from_secs(seconds),
            policy: Policy {
                expiry: Duration::from_secs(minutes * 60),
                bounds: Bounds {
                    per_address: settings.get(MAX_PER_ADDRESS)?,
                    total: usize::try_from(total).unwrap_or(usize::MAX),
                },
                endpoints: EndpointPolicy {
                    checkers: settings.list(PORT_CHECKERS)?,
                    unproven: settings.flag(UNPROVEN_ENDPOINTS)?,
                },
            },
            public_names: settings
                .list::<PublicName>(PUBLIC_NAMES)?
                .into_iter()
                .map(|name| name.to_string())
                .collect(),
            allow_unsigned: settings.flag(ALLOW_UNSIGNED)?,
            trusted_proxies: TrustedProxies::new(settings.list(TRUSTED_PROXIES)?),
            rates: CallsPerMinute {
                reads: settings.get(READS_PER_MINUTE)?,
                writes: settings.get(WRITES_PER_MINUTE)?,
                expensive: settings.get(SEARCHES_PER_MINUTE)?,
            },
        })
    }

    /// The database file, if the data directory is `data_dir`.
    #[must_use]
    pub fn database_in(&self, data_dir: &Path) -> PathBuf {
        self.database.clone().unwrap_or_else(|| data_dir.join(&self.database_name))
    }
}

fn number(text: &str, least: u64, most: u64) -> Result<u64, String> {
    let number = text.parse::<u64>().map_err(|e| e.to_string())?;
    if (least..=most).contains(&number) { Ok(number) } else { Err(String::new()) }
}

/// A name inside the data directory, and none of the files that are there already.
fn file_name(text: &str) -> Result<String, String> {
    let is_name = Path::new(text).file_name().is_some_and(|name| name == text);
    if !is_name || text.contains(['/', '\\']) {
        return Err(
            "a directory can't be part of it; use GOLEM_DISCOVERY_DATABASE_URL for a path".into()
        );
    }
    if ["key", "lock", "control.sock"].contains(&text) {
        return Err("that file holds something else".into());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use golem_vm_node::settings::SettingsSource;

    use super::*;

    fn load(environment: &[(&str, &str)]) -> Result<Config, SettingsError> {
        let environment =
            environment.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let source = SettingsSource { environment, ..SettingsSource::default() };
        Config::from_settings(&Settings::load(&SETTINGS, source)?)
    }

    #[test]
    fn defaults_are_those_of_the_original() {
        let config = load(&[]).unwrap();
        assert_eq!((config.host.as_str(), config.port), ("0.0.0.0", 9001));
        assert_eq!(config.policy.expiry, Duration::from_secs(300));
        assert_eq!(config.cleanup_interval, Duration::from_secs(60));
        assert!(!config.debug && !config.allow_unsigned && config.public_names.is_empty());
        assert_eq!(config.database_in(Path::new("/d")), Path::new("/d/state.db"));
    }

    #[test]
    fn the_readme_has_every_setting() {
        let readme = include_str!("../README.md");
        assert!(readme.contains(&SETTINGS.markdown()), "put this in:\n{}", SETTINGS.markdown());
        let ignored = SETTINGS.markdown_ignored();
        assert!(readme.contains(&ignored), "put this in:\n{ignored}");
    }

    #[test]
    fn every_setting_is_read() {
        let settings = Settings::load(&SETTINGS, SettingsSource::default()).unwrap();
        Config::from_settings(&settings).unwrap();
        assert_eq!(settings.unread(), Vec::<&str>::new());
    }

    #[test]
    fn both_families_of_names_work_and_ours_wins() {
        let config = load(&[
            ("DISCOVERY_HOST", "127.0.0.1"),
            ("DISCOVERY_PORT", "1"),
            ("GOLEM_DISCOVERY_PORT", "2"),
            ("DISCOVERY_DB_URL", "sqlite:///discovery.db"),
            ("GOLEM_DISCOVERY_ADVERTISEMENT_EXPIRY_MINUTES", "7"),
            ("GOLEM_DISCOVERY_PUBLIC_NAMES", "Disco.Example:9001, [2001:db8::1]:9001"),
            ("GOLEM_DISCOVERY_ALLOW_UNSIGNED", "true"),
        ])
        .unwrap();
        assert_eq!((config.host.as_str(), config.port), ("127.0.0.1", 2));
        assert_eq!(config.database_in(Path::new("/d")), Path::new("discovery.db"));
        assert_eq!(config.policy.expiry, Duration::from_secs(420));
        assert_eq!(config.public_names, ["disco.example:9001", "[2001:db8::1]:9001"]);
        assert!(config.allow_unsigned);
    }

    #[test]
    fn what_can_not_be_used_is_named() {
        for (name, value) in [
            (PORT, "70000"),
            (EXPIRY, "0"),
            (EXPIRY, "1441"),
            (CLEANUP_INTERVAL, "0"),
            (ALLOW_UNSIGNED, "maybe"),
            (PUBLIC_NAMES, "disco.example"),
            (PUBLIC_NAMES, "http://disco.example:9001"),
            (DATABASE_URL, "postgres://x"),
            (DATABASE_NAME, "../x.db"),
            (DATABASE_NAME, "key"),
        ] {
            let error = load(&[(name, value)]).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(value), "{error}");
        }
    }
}
