//! Dials back to tell a provider which of its ports the world can reach, and signs what it found.
//!
//! A provider asks `POST /api/v1/port-checks`, signed, with the ports that it wants to hand out. The
//! checker dials each of them and sends one line; a port counts when the key that signed the
//! request answers with a proof over that line. What was proven it attests with its own key.
//!
//! It is no scanner: it dials the address that the request came from, and another one only once
//! a port there was proven to be the caller's. Only where the operator allows unsigned requests is
//! there the original's check as well, which looks for open ports of any public address.
//!
//! | module | what it holds |
//! |---|---|
//! | [`config`] | the settings |
//! | [`probe`] | dialling: deadlines, repetitions, bounds, the words for what was found |
//! | `proof` | the conversation with one port |
//! | [`guard`] | who may have whom dialled |
//! | `http` | the routes |
//! | [`server`] | the life of the service |

pub mod config;
pub mod guard;
mod http;
pub mod probe;
mod proof;
pub mod server;

pub use config::Config;
pub use server::Server;
