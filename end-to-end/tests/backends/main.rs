//! One scenario over every backend, through the real programs. What a backend says that it can't is left out, with a
//! line that says so; what it says that it can has to work.
//!
//! `cargo test --all-features --test backends -- --nocapture` shows what was left out.
#![allow(clippy::unwrap_used)]

mod containment;
mod crashes;
mod ground;
mod machines;
mod scenario;

use ground::Ground;

#[test]
fn on_docker() {
    scenario::run(Ground::docker());
}

#[test]
fn on_the_stand_in_for_multipass() {
    let Some(ground) = Ground::stand_in() else { return };
    scenario::run(ground);
}

/// `scripts/test --multipass` asks for it.
#[test]
fn on_a_real_multipass() {
    let Some(ground) = Ground::multipass() else { return };
    scenario::run(ground);
}

#[test]
fn on_qemu() {
    let Some(mut ground) = Ground::qemu() else { return };
    machines::hostile_and_killed(&mut ground.market);
    scenario::run(ground);
}

#[test]
fn killed_on_qemu() {
    if ground::can_have_machines() {
        crashes::on_qemu();
    }
}

/// Its instances are descriptions: nobody can log in, and all else is the same.
#[test]
fn in_memory() {
    scenario::without_login();
}
