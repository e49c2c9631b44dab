//! The owner's side: HTTP over `control.sock` in the data directory, never over TCP. Whoever may
//! open the socket is the owner.

pub mod events;
mod jobs;
pub mod messages;
mod overview;
mod purge;
mod quarantine;
mod running;
mod server;

pub use running::Running;
pub use server::router;
