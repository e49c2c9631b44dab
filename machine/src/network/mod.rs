//! A machine's network: a namespace of its own, and what may leave it.
//!
//! ```text
//!             the machine's own network namespace            │ the host's
//!   guest ── vm0 (tap) ── rules, address translation ── uplink (tap) ── slirp4netns ── ordinary sockets
//! ```
//!
//! The guest's network card is a tap in a namespace that belongs to an unprivileged user, also where the
//! provider is root. The namespace routes to a second tap, behind which slirp4netns makes ordinary sockets of
//! the host out of packets. What is not let through in the namespace never reaches it. Nothing is changed in
//! the host's own namespace: no interface, no route, no rule. Why: docs/decisions/0014.
//!
//! | module | what it holds |
//! |---|---|
//! | [`addressing`], [`mac`] | what a machine's addresses are: pure |
//! | [`rules`], [`destination`] | what the owner decided about guests' traffic |
//! | [`text`] | what all tables of guests say alike: pure |
//! | [`ruleset`] | the rules of a machine's namespace, as text: pure |
//! | [`host`] | what the host is connected to, and when that changes |
//! | [`nft`], `program` | the program that loads rules, and others |
//! | [`inside`] | running programs in a machine's namespaces |
//! | [`uplink`] | the network set up, its rules and its uplink replaced, its end |
//! | [`probe`] | whether machines can have a network here, by raising one |
//! | [`counters`] | what a machine has sent and received |

pub mod addressing;
pub mod counters;
pub mod destination;
mod error;
pub mod host;
pub mod inside;
pub mod mac;
pub mod nft;
pub mod probe;
mod program;
pub mod rules;
pub mod ruleset;
pub mod text;
pub mod uplink;

pub use addressing::Addressing;
pub use counters::{Counters, counters};
pub use destination::Destination;
pub use error::NetworkError;
pub use inside::Inside;
pub use mac::Mac;
pub use probe::{Finding, probe};
pub use rules::{Caps, Rules};
pub use ruleset::{Access, Ruleset};
pub use uplink::{Folder, Uplink, lower, raise, reconnect, replace_rules};
