//! Serving HTTP to strangers: an axum `Router` behind caps, deadlines, signatures and one form of
//! error.
//!
//! ```text
//!  accept ─▶ connection cap ─▶ header deadline ─▶ client's address ─▶ limit per address ──┐
//!  ┌─ limit per key ◀─ signature checked ◀─ body: bounded, deadline ◀─────────────────────┘
//!  └▶ handler: own task, deadline ─▶ errors made problem+json ─▶ reply signed ─▶
//! ```
//!
//! What handlers can rely on:
//! - the body is complete and within [`HttpLimits::max_body`];
//! - [`Caller`] says who signed the request, or that nobody did; [`VerifiedCaller`] refuses the latter;
//! - [`PeerAddr`] (TCP; behind a trusted proxy the client's address) or [`LocalPeer`] (Unix socket) and [`RequestId`] are extensions;
//! - a handler runs to its end even if the client goes away, so that a half-done change never
//!   depends on someone's network.
//!
//! What clients can rely on: an error is `application/problem+json` with a `code` and a
//! `request_id`, and every reply to a signed request is signed.
//!
//! A reply that goes on as things happen is an [`EventStream`]: bounded in number and in time, ended at once when
//! the service ends, its head and its events signed each for itself.
//!
//! Only HTTP/1.1 is spoken, and on request one thing beside it ([`Opening`]). What is no HTTP at all is refused by hyper itself, with an empty 400.

mod address_shares;
mod caller;
mod cidr;
mod connection;
mod event_stream;
mod extract;
mod forwarded;
mod gcra;
mod json_words;
mod limits;
mod listener;
mod nonce_journal;
mod nonces;
mod opening;
mod peer;
mod problem;
mod rate_limits;
mod request_id;
mod service;
mod signing;

pub use address_shares::{AddressShare, AddressShares};
pub use caller::{Caller, VerifiedCaller};
pub use cidr::Cidr;
pub use event_stream::{EventSink, EventStream, ReaderGone};
pub use extract::{JsonBody, QueryParams};
pub use forwarded::{ForwardedError, TrustedProxies, forwarded_hops, x_forwarded_for_hops};
pub use gcra::{Allowance, Quota, RateLimiter};
pub use limits::{HttpLimits, StreamLimits};
pub use listener::{BindError, bind};
pub use nonces::NonceLimits;
pub use opening::{Opened, Opening};
pub use peer::{LocalPeer, Peer, PeerAddr};
pub use problem::ProblemResponse;
pub use rate_limits::{CallClass, CallsPerMinute, RateLimits};
pub use request_id::RequestId;
pub use service::HttpService;
pub use signing::{PublicName, Recipients, Signing};

#[cfg(test)]
mod tests;
