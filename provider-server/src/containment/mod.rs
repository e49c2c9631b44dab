//! Keeps guests' traffic away from the host, its network and each other: an nftables table of this
//! provider's own, which any backend whose guests sit behind known bridges can use.
//!
//! | module | what it holds |
//! |---|---|
//! | [`resolvers`] | the host's own resolvers, which guests are given unless the owner names some |
//! | [`names`] | the table, the bridges, the guests |
//! | [`ruleset`] | the table's text: pure |
//! | [`neighbours`] | who is at an address on a bridge |
//! | [`firewall`] | keeps the table in place |
//! | [`guard`] | what the provider asks of whatever contains guests, this table or something else |
//!
//! What tables of guests have in common with the namespaces of virtual machines is in [`golem_vm_machine::network`].
//! Why a table of our own and not a chain of the engine's: docs/decisions/0007.

pub mod firewall;
pub mod guard;
pub mod names;
pub mod neighbours;
pub mod resolvers;
pub mod ruleset;

pub use firewall::Firewall;
pub use golem_vm_machine::network::{Caps, Destination, Mac, Rules};
pub use guard::TrafficGuard;
pub use names::{Guest, Names};
