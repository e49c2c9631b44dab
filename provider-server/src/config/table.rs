//! Every setting of the provider: what the code reads and docs/configuration.md lists.

use golem_vm_node::settings::{IgnoredSetting, SettingSpec, SettingsTable};

const fn setting(
    names: &'static [&'static str],
    toml_key: &'static str,
    default: Option<&'static str>,
    expected: &'static str,
    help: &'static str,
) -> SettingSpec {
    SettingSpec { names, toml_key, default, expected, help }
}

const NO_PAYMENTS: &str = "payments are not part of this program";
const NO_OUTSIDE_SERVICE: &str = "no outside service is asked";

const fn ignored(name: &'static str, reason: &'static str) -> IgnoredSetting {
    IgnoredSetting { name, reason }
}

/// The settings of `golem-provider`.
pub static TABLE: SettingsTable = SettingsTable {
    service: "provider",
    prefixes: &["GOLEM_PROVIDER_"],
    settings: &[
        setting(
            &["GOLEM_PROVIDER_HOST"],
            "host",
            Some("0.0.0.0"),
            "an IP address",
            "address to listen on, for the API and for the VMs' SSH ports",
        ),
        setting(
            &["GOLEM_PROVIDER_PORT"],
            "port",
            Some("7466"),
            "a port (0 to 65535)",
            "port of the API; 0 takes a free one",
        ),
        setting(
            &["GOLEM_PROVIDER_DATA_DIR"],
            "data_dir",
            None,
            "a directory",
            "where key, database, sockets and logs live (default: the platform's data directory + golem/provider)",
        ),
        setting(
            &["GOLEM_PROVIDER_NAME", "GOLEM_PROVIDER_PROVIDER_NAME"],
            "name",
            None,
            "1 to 64 printable characters",
            "label shown to requestors (default: this host's name)",
        ),
        setting(
            &["GOLEM_PROVIDER_COUNTRY", "GOLEM_PROVIDER_PROVIDER_COUNTRY"],
            "country",
            Some("ZZ"),
            "two capital letters (ISO 3166-1), or ZZ for unknown",
            "country that is advertised",
        ),
        setting(
            &["GOLEM_PROVIDER_PUBLIC_IP"],
            "public_ip",
            Some("auto"),
            "an IP address or a host name, or auto",
            "address that is advertised; auto: the one that port checkers or discovery see",
        ),
        setting(
            &["GOLEM_PROVIDER_DISCOVERY_URL"],
            "discovery_url",
            None,
            "URLs such as http://discovery.example:9001, separated by commas",
            "where to advertise; unset: nowhere",
        ),
        setting(
            &[
                "GOLEM_PROVIDER_DISCOVERY_ADVERTISEMENT_INTERVAL",
                "GOLEM_PROVIDER_ADVERTISEMENT_INTERVAL",
            ],
            "advertisement_interval",
            Some("240"),
            "a number of seconds, 10 to 3600",
            "how often the advertisement is refreshed",
        ),
        setting(
            &["GOLEM_PROVIDER_PORT_RANGE_START"],
            "port_range_start",
            Some("50800"),
            "a port (1 to 65535)",
            "first port for the VMs' SSH",
        ),
        setting(
            &["GOLEM_PROVIDER_PORT_RANGE_END"],
            "port_range_end",
            Some("50900"),
            "a port (2 to 65536)",
            "the port behind the last one for the VMs' SSH",
        ),
        setting(
            &["GOLEM_PROVIDER_PORT_CHECKERS", "GOLEM_PROVIDER_PORT_CHECK_SERVERS"],
            "port_checkers",
            None,
            "URLs such as http://checker.example:9000, separated by commas",
            "who verifies that the world can reach the ports",
        ),
        setting(
            &["GOLEM_PROVIDER_SKIP_PORT_VERIFICATION"],
            "skip_port_verification",
            Some("false"),
            "true or false",
            "do not ask port checkers; the provider is then advertised as unverified",
        ),
        setting(
            &["GOLEM_PROVIDER_BACKEND"],
            "backend",
            Some("auto"),
            "auto or docker",
            "what makes the VMs",
        ),
        setting(
            &["GOLEM_PROVIDER_MAX_VMS"],
            "max_vms",
            Some("10"),
            "a number, 0 to 10000",
            "most VMs at a time",
        ),
        setting(
            &["GOLEM_PROVIDER_MIN_CPU_CORES"],
            "min_cpu_cores",
            Some("1"),
            "a number of vCPUs",
            "with fewer vCPUs free, nothing is advertised",
        ),
        setting(
            &["GOLEM_PROVIDER_MIN_MEMORY_GB"],
            "min_memory_gb",
            Some("1"),
            "a number of GiB",
            "with less memory free, nothing is advertised",
        ),
        setting(
            &["GOLEM_PROVIDER_MIN_STORAGE_GB"],
            "min_storage_gb",
            Some("10"),
            "a number of GiB",
            "with less disk free, nothing is advertised",
        ),
        setting(
            &["GOLEM_PROVIDER_OFFER_CPU"],
            "offer_cpu",
            None,
            "a number of vCPUs, fractions included",
            "vCPUs that are rented out in all (default: the host's × the overcommit factor)",
        ),
        setting(
            &["GOLEM_PROVIDER_OFFER_MEMORY_GB"],
            "offer_memory_gb",
            None,
            "a number of GiB, fractions included",
            "memory that is rented out in all (default: the host's less 1 GiB)",
        ),
        setting(
            &["GOLEM_PROVIDER_OFFER_STORAGE_GB"],
            "offer_storage_gb",
            None,
            "a number of GiB, fractions included",
            "disk that is rented out in all (default: what is free, less 10 GiB)",
        ),
        setting(
            &["GOLEM_PROVIDER_OVERCOMMIT_CPU"],
            "overcommit_cpu",
            Some("1"),
            "a factor, 1 to 64",
            "how many times the host's vCPUs may be promised; advertised",
        ),
        setting(
            &["GOLEM_PROVIDER_OVERCOMMIT_STORAGE"],
            "overcommit_storage",
            Some("1"),
            "a factor, 1 to 64",
            "how many times the host's free disk may be promised; advertised",
        ),
        setting(
            &["GOLEM_PROVIDER_PRICE_USD_PER_CORE_MONTH"],
            "price_usd_per_core_month",
            Some("5"),
            "USD, up to six decimals",
            "price of one vCPU for a month",
        ),
        setting(
            &["GOLEM_PROVIDER_PRICE_USD_PER_GB_RAM_MONTH"],
            "price_usd_per_gb_ram_month",
            Some("2"),
            "USD, up to six decimals",
            "price of one GiB of memory for a month",
        ),
        setting(
            &["GOLEM_PROVIDER_PRICE_USD_PER_GB_STORAGE_MONTH"],
            "price_usd_per_gb_storage_month",
            Some("0.1"),
            "USD, up to six decimals",
            "price of one GiB of disk for a month",
        ),
        setting(
            &["GOLEM_PROVIDER_IMAGES"],
            "images",
            None,
            "image names, separated by commas",
            "which of the images on this machine can be rented (default: all that were built with 'image build')",
        ),
        setting(
            &["GOLEM_PROVIDER_DEFAULT_IMAGE"],
            "default_image",
            Some("debian-12"),
            "an image name",
            "what a VM boots from when the requestor names nothing",
        ),
        setting(
            &["GOLEM_PROVIDER_TRUSTED_REQUESTORS"],
            "trusted_requestors",
            None,
            "ids of requestors, separated by commas",
            "requestors who are served even where guests can't be contained",
        ),
        setting(
            &["GOLEM_PROVIDER_ALLOW_UNCONTAINED"],
            "allow_uncontained",
            Some("false"),
            "true or false",
            "rent to strangers although guests can reach this host and its network; advertised",
        ),
        setting(
            &["GOLEM_PROVIDER_ALLOW_UNSIGNED"],
            "allow_unsigned",
            Some("false"),
            "true or false",
            "serve unsigned requestors (the Python original); all of them are one owner",
        ),
        setting(
            &["GOLEM_PROVIDER_LAUNCH_TIMEOUT_SECONDS"],
            "launch_timeout_seconds",
            Some("300"),
            "a number of seconds, 10 to 3600",
            "how long a VM may take to come up before it is given up",
        ),
        setting(
            &["GOLEM_PROVIDER_FORWARDER"],
            "forwarder",
            None,
            "the path of a program",
            "the golem-forwarder program (default: beside golem-provider, else on PATH)",
        ),
        setting(
            &["GOLEM_PROVIDER_LOG"],
            "log",
            Some("info"),
            "error, warn, info, debug, or a filter such as info,golem_vm_provider=debug",
            "how much is logged; RUST_LOG wins",
        ),
    ],
    ignored: &[
        ignored("GOLEM_PROVIDER_DEBUG", "use GOLEM_PROVIDER_LOG=debug"),
        ignored(
            "GOLEM_PROVIDER_ADVERTISER_TYPE",
            "advertisements go to GOLEM_PROVIDER_DISCOVERY_URL",
        ),
        ignored("GOLEM_PROVIDER_NETWORK", NO_PAYMENTS),
        ignored("GOLEM_PROVIDER_STREAM_PAYMENT_ADDRESS", NO_PAYMENTS),
        ignored("GOLEM_PROVIDER_POLYGON_RPC_URL", NO_PAYMENTS),
        ignored("GOLEM_PROVIDER_ETHEREUM_KEY_DIR", NO_PAYMENTS),
        ignored("GOLEM_PROVIDER_ETHEREUM_PRIVATE_KEY", NO_PAYMENTS),
        ignored("GOLEM_PROVIDER_PRICING_UPDATE_ENABLED", NO_OUTSIDE_SERVICE),
        ignored("GOLEM_PROVIDER_COINGECKO_API_URL", NO_OUTSIDE_SERVICE),
        ignored(
            "GOLEM_PROVIDER_MULTIPASS_BINARY_PATH",
            "there is no Multipass backend in this version",
        ),
        ignored(
            "GOLEM_PROVIDER_RETRY_ATTEMPTS",
            "advertising is retried with back-off until it succeeds",
        ),
        ignored(
            "GOLEM_PROVIDER_RETRY_DELAY_SECONDS",
            "advertising is retried with back-off until it succeeds",
        ),
        ignored(
            "GOLEM_PROVIDER_RETRY_BACKOFF",
            "advertising is retried with back-off until it succeeds",
        ),
        ignored(
            "GOLEM_PROVIDER_CREATE_VM_MAX_RETRIES",
            "use GOLEM_PROVIDER_LAUNCH_TIMEOUT_SECONDS",
        ),
        ignored(
            "GOLEM_PROVIDER_CREATE_VM_RETRY_DELAY_SECONDS",
            "use GOLEM_PROVIDER_LAUNCH_TIMEOUT_SECONDS",
        ),
        ignored(
            "GOLEM_PROVIDER_STOP_VMS_ON_EXIT",
            "VMs outlive the program; 'golem-provider purge' ends them",
        ),
        ignored("GOLEM_PROVIDER_VM_DATA_DIR", "use GOLEM_PROVIDER_DATA_DIR"),
        ignored("GOLEM_PROVIDER_SSH_KEY_DIR", "use GOLEM_PROVIDER_DATA_DIR"),
        ignored("GOLEM_PROVIDER_CLOUD_INIT_DIR", "use GOLEM_PROVIDER_DATA_DIR"),
        ignored("GOLEM_PROVIDER_PROXY_STATE_DIR", "use GOLEM_PROVIDER_DATA_DIR"),
        ignored("GOLEM_PROVIDER_RATE_LIMIT_PER_MINUTE", "the original never used it either"),
        ignored("GOLEM_PROVIDER_CPU_THRESHOLD", "the original never used it either"),
        ignored("GOLEM_PROVIDER_MEMORY_THRESHOLD", "the original never used it either"),
        ignored("GOLEM_PROVIDER_STORAGE_THRESHOLD", "the original never used it either"),
    ],
};
