//! The judgements, by what they are about. Every one that is not good says what to do.

mod backend;
mod books;
mod images;
mod machine;
mod reach;

pub(super) use backend::backends;
pub(super) use books::{instances, ledger};
pub(super) use images::images;
pub(super) use machine::{capacity, clock, disk, key, memory, stopped};
pub(super) use reach::{checkers, discovery, forwarder, ports};
