//! golem-discovery: the registry of VM on Golem.

pub mod registry;
pub mod store;
