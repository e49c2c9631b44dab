//! Keeps guests' traffic away from the host, its network and each other: an nftables table of this
//! provider's own, which any backend whose guests sit behind known bridges can use.
//!
//! | module | what it holds |
//! |---|---|
//! | [`destination`], [`resolvers`], [`rules`] | what the owner set: further destinations, resolvers, caps |
//! | [`names`] | the table, the bridges, the guests |
//! | [`ruleset`] | the table's text: pure |
//! | `on_link`, `netlink` | what the host is connected to, and when that changes |
//! | `nft` | the program that loads the text |
//! | [`firewall`] | keeps the table in place |
//! | [`guard`] | what the provider asks of whatever contains guests, this table or something else |
//!
//! Why a table of our own and not a chain of the engine's: docs/decisions/0007.

pub mod destination;
pub mod firewall;
pub mod guard;
pub mod names;
mod netlink;
mod nft;
mod on_link;
pub mod resolvers;
pub mod rules;
pub mod ruleset;

pub use destination::Destination;
pub use firewall::Firewall;
pub use guard::TrafficGuard;
pub use names::{Guest, Mac, Names};
pub use rules::{Caps, Rules};
