//! The program inside our guests: a clone of a template becomes a machine of its own by it.
//!
//! Only the standard library is used, so that the build script of the crate around it compiles it without a network.
//! It answers the provider on a virtio-serial port, and nobody else; it opens no socket. What it is asked for is
//! checked as a whole before anything is changed.

mod answer;
mod crc32;
mod files;
mod gpt;
mod grow;
mod identity;
mod kernel;
mod netlink;
mod network;
mod port;
mod run;
mod settle;
mod sshd;
#[allow(dead_code, unreachable_pub)]
// The provider's half of it; its crate compiles this file as well.
mod wire;

use std::path::Path;

fn main() {
    match std::env::args().nth(1).as_deref() {
        None => port::serve(&answer::Guest::new(Path::new("/"))),
        Some("--version") => println!("golem-guest-agent {}", answer::VERSION),
        Some(_) => {
            eprintln!(
                "Usage: guest-agent [--version]\nServes the provider; started by the guest's init."
            );
            std::process::exit(2);
        }
    }
}
