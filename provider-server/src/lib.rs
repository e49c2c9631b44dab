//! Rents out virtual machines.

pub mod advertise;
pub mod app;
pub mod backend;
pub mod capacity;
pub mod cli;
pub mod config;
pub mod containment;
pub mod control;
pub mod doctor;
pub mod fail_point;
pub mod forwarder;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod host;
pub mod http;
pub mod images;
pub mod orphans;
pub mod ports;
pub mod rental;
pub mod steady;
pub mod store;
#[cfg(test)]
mod test_address;
pub mod vm;
