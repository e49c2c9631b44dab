//! All fuzz targets. Their bodies stand beside what they try, in each crate's module `fuzzing`; here
//! they are put together, for libFuzzer (`fuzz/fuzz_targets`) and for the [`session`] that runs them
//! on a stable compiler.

pub mod mutation;
pub mod session;

use std::path::PathBuf;

pub use golem_vm_protocol::fuzzing::Target;

/// What a target does with an input: panics when something does not hold.
pub type Body = fn(&[u8]);

/// Every target, in order of their names.
#[must_use]
pub fn targets() -> Vec<Target> {
    let mut all = [
        golem_vm_protocol::fuzzing::TARGETS,
        golem_vm_machine::fuzzing::TARGETS,
        golem_vm_node::fuzzing::TARGETS,
        golem_vm_discovery::registry::fuzzing::TARGETS,
        request_vm_on_golem::fuzzing::TARGETS,
        &golem_vm_provider::fuzzing::targets(),
    ]
    .concat();
    all.sort_by_key(|(name, _)| *name);
    all
}

/// Runs the target `name` on one input; a name that no target has is an error of the caller's.
///
/// # Panics
/// When something does not hold that has to hold, or there is no such target.
pub fn run(name: &str, input: &[u8]) {
    let target = targets().into_iter().find(|(target, _)| *target == name);
    let Some((_, body)) = target else { panic!("there is no fuzz target {name}") };
    body(input);
}

/// The directory `fuzz`.
#[must_use]
pub fn directory() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}
