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
//! the host's own namespace: no interface, no route, no rule. Why: docs/decisions (a note on one uplink for both).
//!
//! | module | what it holds |
//! |---|---|
//! | [`addressing`], [`mac`] | what a machine's addresses are: pure |
//! | [`rules`], [`destination`] | what the owner decided about guests' traffic |
//! | [`text`] | what all tables of guests say alike: pure |
//! | [`ruleset`] | the rules of a machine's namespace, as text: pure |
//! | [`host`] | what the host is connected to, and when that changes |
//! | [`nft`] | the program that loads rules |

pub mod addressing;
pub mod destination;
pub mod host;
pub mod mac;
pub mod nft;
mod program;
pub mod rules;
pub mod ruleset;
pub mod text;

pub use addressing::Addressing;
pub use destination::Destination;
pub use mac::Mac;
pub use rules::{Caps, Rules};
pub use ruleset::{Access, Ruleset};
