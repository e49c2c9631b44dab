//! The Multipass backend on a stand-in that speaks as the recordings do, and goes wrong as the real one does.
#![allow(clippy::unwrap_used)]

mod abilities;
mod daemon;
mod fixture;
mod launching;
mod life;
