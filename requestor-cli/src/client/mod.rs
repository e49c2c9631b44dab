//! The other side of the wire: how a provider is reached, what it is asked, and what discovery
//! lists. Every call has a deadline, and nothing that is not signed by the right key gets through.

pub mod call_error;
pub mod connector;
pub mod discovery;
pub(crate) mod exchange;
pub mod listing;
pub mod pauses;
pub mod provider;
pub mod stream;
