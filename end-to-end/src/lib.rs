//! The whole market over its real programs: what the tests in `tests/market` are written with.
//!
//! Nothing is built here: the programs are those beside the test (`target/debug`), as `scripts/test`
//! builds them. Every service listens on a port that the system chooses, on loopback, with a data
//! directory and a key of its own, and tells where through `--ready-fd`. Tests share one engine and
//! run side by side, so each looks only at what carries the labels of its own providers. When a
//! [`Provider`] is dropped, whatever happened to the test, it is purged.
//!
//! These are tools of tests: what can't go on panics, and says why.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc)]

pub mod crashes;
mod engine;
mod fail_points;
pub mod invariants;
mod kept_backend;
mod listening;
mod market;
mod meddler;
mod neighbourhood;
mod outcome;
mod place;
mod private_engine;
mod programs;
mod provider;
mod raw_http;
mod requestor;
mod service;
mod signed_http;
mod small_disk;
pub mod soak;
mod stand_in;
mod surroundings;
mod waiting;

pub use engine::Engine;
pub use fail_points::FailPoints;
pub use kept_backend::KeptBackend;
pub use listening::{PortRange, listens};
pub use market::Market;
pub use meddler::{Meddler, Meddling, Message, carry};
pub use neighbourhood::{Behaviour, Namespace};
pub use outcome::Outcome;
pub use place::Place;
pub use private_engine::PrivateEngine;
pub use programs::{program, workspace};
pub use provider::{Provider, ProviderOptions};
pub use raw_http::{Reply, connect_from, exchange};
pub use requestor::{Requestor, Session};
pub use service::{Service, signal};
pub use signed_http::{Answer, Broken, Renter};
pub use small_disk::SmallDisk;
pub use stand_in::MultipassStandIn;
pub use surroundings::Surroundings;
pub use waiting::{eventually, within};
