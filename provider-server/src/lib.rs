//! Rents out virtual machines.

pub mod backend;
pub mod capacity;
pub mod config;
pub mod forwarder;
pub mod host;
pub mod store;
pub mod vm;
