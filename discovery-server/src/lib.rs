//! golem-discovery: the registry of VM on Golem. Providers publish signed advertisements, and
//! requestors search them; nothing here is in the path of a running VM.
//!
//! | module | what it holds |
//! |---|---|
//! | [`registry`] | publish, withdraw, search: no SQL, no HTTP |
//! | [`store`] | where advertisements are kept: SQLite, or memory for tests |
//! | [`http`] | the routes |
//! | [`config`] | the settings |
//! | [`server`] | all of it, from configuration to shutdown |
//! | [`cli`] | the command line |

pub mod cli;
pub mod config;
pub mod http;
pub mod registry;
pub mod server;
pub mod store;
