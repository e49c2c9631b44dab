//! What the programs of VM on Golem say to each other: the wire types, ids, error codes, routes,
//! signed documents, and the signing of requests and replies.
//!
//! Nothing in here does I/O, reads a clock or knows a database. Whatever arrives from outside
//! becomes one of these types by parsing, so that holding a value means that it was checked:
//! a [`KeyId`] is a usable Ed25519 key, a [`VmName`] is a legal name, a
//! [`Verified`](document::Verified) document carries a signature that was checked.
//!
//! | module | what it holds |
//! |---|---|
//! | [`identity`] | keys, and the ids that are keys |
//! | [`signature`] | the `golem-v1` profile of HTTP Message Signatures |
//! | [`document`] | the envelope of everything that is published or attested |
//! | [`advertisement`] | what a provider publishes, and how discovery lists it |
//! | [`vm`] | ids, names, sizes and messages of rented VMs |
//! | [`port_check`] | what a port checker is asked, and answers |
//! | [`port_proof`] | how a port shows whose it is: one line each way |
//! | [`attestation`] | what a port checker signs about a provider's ports |
//! | [`port_ranges`] | sets of ports, written compactly |
//! | [`address`] | which addresses are the world's |
//! | [`provider`] | what a provider says about itself |
//! | [`problem`] | errors: their stable codes and their `application/problem+json` form |
//! | [`route`] | every path, built in one place |
//! | [`time`] | the two ways in which times are written |
//! | [`text`] | making text from strangers safe to print |

pub mod address;
pub mod advertisement;
pub mod attestation;
pub mod document;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod identity;
pub mod port_check;
pub mod port_proof;
pub mod port_ranges;
pub mod problem;
pub mod provider;
pub mod route;
pub mod signature;
pub mod text;
pub mod time;
pub mod vm;

pub use identity::{KeyId, KeyPair, KeyPrefix};
pub use problem::{ErrorCode, FieldError, Problem};
pub use vm::{VmId, VmName, VmRef, VmResources};
