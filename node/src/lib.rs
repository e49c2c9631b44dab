//! What every program of VM on Golem has on its machine: an identity, a data directory, settings,
//! a SQLite store, a log, a listener, and signed HTTP in both directions.
//!
//! Without features this is what the `golem` command needs. The feature `service` adds what a
//! long-running program needs.
//!
//! | module | what it holds |
//! |---|---|
//! | [`settings`] | flag > environment > `.env` > config file > default, each value with its origin |
//! | [`data_dir`] | the directory of state, and the lock that keeps a second process off it |
//! | [`key_file`] | the Ed25519 key in it |
//! | [`documented`] | sections of the documentation that are made from code |
//! | [`sqlite`] | opening a database: private, durable, migrated |
//! | [`clock`] | wall time that tests can set |
//! | `store` | one writer that commits in groups, several readers |
//! | `http` | the listener, deadlines and caps; signed requests and replies; errors as problems |
//! | `client` | outbound signed HTTP |
//! | `control` | HTTP over a socket in the data directory, for the owner |
//! | `fail_point` | where tests have a service killed |
//! | `logging`, `shutdown`, `ready`, `open_files` | the life of a service |

pub mod clock;
pub mod data_dir;
pub mod documented;
pub mod fail_point;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod key_file;
pub mod settings;
pub mod sqlite;

#[cfg(feature = "service")]
pub mod client;
#[cfg(all(feature = "service", unix))]
pub mod control;
#[cfg(feature = "service")]
pub mod http;
#[cfg(feature = "service")]
pub mod logging;
#[cfg(all(feature = "service", unix))]
pub mod open_files;
#[cfg(feature = "service")]
pub mod ready;
#[cfg(feature = "service")]
pub mod shutdown;
#[cfg(all(feature = "service", unix))]
pub mod socket_path;
#[cfg(feature = "service")]
pub mod store;
