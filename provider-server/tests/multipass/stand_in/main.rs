//! Stands in for `multipass` in tests: the same arguments, words, exit codes and states as the recordings of a real
//! one, and its delays and faults. There is no daemon: what it would know is in a directory, and everything is
//! worked out from that and the time.
//!
//! `MULTIPASS_STAND_IN` names the directory. `settings.json` in it says which release it is, how long things take
//! and what goes wrong; `calls.jsonl` is written with the arguments of each call.
//!
//! With `guests` in the settings (and as root) each instance is processes in namespaces of their own, with a bridge,
//! an address, a disk that stays, and a real sshd; without, it only says so.
//!
//! Not for anything but tests: a guest here is no virtual machine, and holds nobody back.

#![allow(clippy::unwrap_used)]

mod client;
mod commands;
mod guest;
mod inside;
mod said;
mod settings;
mod world;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let world = world::World::open();
    match words.as_slice() {
        ["--work", name, generation] => guest::work(&world, name, generation.parse().unwrap()),
        ["--daemon", "stop"] => world.daemon_stops(),
        ["--daemon", "start"] => world.daemon_starts(),
        ["--end"] => world.end(),
        _ => return client::run(&world, &words),
    }
    ExitCode::SUCCESS
}
