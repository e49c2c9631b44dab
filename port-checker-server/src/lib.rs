//! Dials back to tell a provider which of its ports the world can reach.
//!
//! A provider asks `POST /check-ports` with the ports it wants to hand out; the checker dials each
//! of them at the address that the request came from, and says what it found. It dials nobody
//! else: a signed request names its caller, and its caller's address is the one it has. Only where
//! the operator allows unsigned requests does it behave as the original did, towards any address.
//!
//! | module | what it holds |
//! |---|---|
//! | [`config`] | the settings |
//! | [`probe`] | dialling: deadlines, repetitions, the words for what was found |
//! | [`guard`] | who may be dialled, and how much at once |
//! | [`server`] | the routes, and the life of the service |

pub mod config;
pub mod guard;
mod http;
pub mod probe;
pub mod server;

pub use config::Config;
pub use server::Server;
