//! The market as its people meet it, over its real programs and a real engine.
#![allow(clippy::unwrap_used)]

mod bad_days;
mod crashes;
mod crowd;
mod engines;
mod escape;
mod failover;
mod floods;
mod hostile;
mod impostor;
mod keys;
mod killed_cli;
mod limits;
mod lying_discovery;
mod meddler;
mod network;
mod orphans;
mod owners;
mod ports;
mod programs;
mod rent_and_use;
mod replay;
mod restart;
mod secrets;
mod wrong_things;
