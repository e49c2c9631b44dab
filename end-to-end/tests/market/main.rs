//! The market as its people meet it, over its real programs and a real engine.
#![allow(clippy::unwrap_used)]

mod rent_and_use;
