//! Every setting of `golem`, in one place. docs and README list exactly these.

use golem_vm_node::settings::{IgnoredSetting, SettingSpec, SettingsTable};

/// Where advertisements are searched.
pub const DISCOVERY_URL: &str = "GOLEM_REQUESTOR_DISCOVERY_URL";
/// The directory of key, state and known hosts.
pub const BASE_DIR: &str = "GOLEM_REQUESTOR_BASE_DIR";
/// The directory of SSH keys that golem makes.
pub const SSH_KEY_DIR: &str = "GOLEM_REQUESTOR_SSH_KEY_DIR";
/// The database of rented VMs.
pub const DB_PATH: &str = "GOLEM_REQUESTOR_DB_PATH";

/// Whose word on a provider's ports counts.
pub const TRUSTED_CHECKERS: &str = "GOLEM_REQUESTOR_TRUSTED_CHECKERS";

/// The settings of `golem`.
pub static TABLE: SettingsTable = SettingsTable {
    service: "requestor",
    prefixes: &["GOLEM_REQUESTOR_"],
    settings: &[
        SettingSpec {
            names: &[DISCOVERY_URL],
            toml_key: "discovery-url",
            default: None,
            expected: "an address such as http://discovery.example:9001",
            help: "the discovery server that is asked for providers",
        },
        SettingSpec {
            names: &[BASE_DIR],
            toml_key: "base-dir",
            default: None,
            expected: "a directory",
            help: "where your key, the list of your VMs and their host keys are kept \
                   (unset: the platform's data directory + `golem/requestor`)",
        },
        SettingSpec {
            names: &[SSH_KEY_DIR],
            toml_key: "ssh-key-dir",
            default: None,
            expected: "a directory",
            help: "where golem keeps the SSH key that it makes if you have none \
                   (unset: `ssh` in the base directory)",
        },
        SettingSpec {
            names: &[DB_PATH],
            toml_key: "db-path",
            default: None,
            expected: "a file",
            help: "the database of your VMs (unset: `state.db` in the base directory)",
        },
        SettingSpec {
            names: &[TRUSTED_CHECKERS],
            toml_key: "trusted-checkers",
            default: None,
            expected: "ids of port checkers, separated by commas",
            help: "the port checkers whose word on a provider's ports counts \
                   (unset: everybody's, and it is shown whose it is)",
        },
    ],
    ignored: &[
        ignored("GOLEM_REQUESTOR_DISCOVERY_DRIVER", "there is one kind of discovery"),
        ignored("GOLEM_REQUESTOR_NETWORK", "there is one network"),
        ignored("GOLEM_REQUESTOR_PAYMENTS_NETWORK", NO_PAYMENTS),
        ignored(
            "GOLEM_REQUESTOR_ETHEREUM_PRIVATE_KEY",
            "you are known by the key in the base directory",
        ),
        ignored("GOLEM_REQUESTOR_POLYGON_RPC_URL", NO_PAYMENTS),
        ignored("GOLEM_REQUESTOR_STREAM_PAYMENT_ADDRESS", NO_PAYMENTS),
        ignored("GOLEM_ENVIRONMENT", "there is one environment"),
        ignored("GOLEM_SILENCE_LOGS", "use --quiet"),
    ],
};

const NO_PAYMENTS: &str = "there are no payments on a chain";

const fn ignored(name: &'static str, reason: &'static str) -> IgnoredSetting {
    IgnoredSetting { name, reason }
}
