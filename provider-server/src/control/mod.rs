//! The owner's side: HTTP over `control.sock` in the data directory, never over TCP. Whoever may
//! open the socket is the owner.

pub mod messages;
mod jobs;
mod overview;
mod purge;
mod server;

pub use server::{Running, router};
