//! Bodies of the fuzz targets for what machines, their tools and their guests say; see `fuzz/README.md`.
//!
//! Each takes any bytes, and panics when something does not hold that has to hold for all bytes.

/// A target's name and its body.
pub type Target = (&'static str, fn(&[u8]));

/// Every target of this crate.
pub const TARGETS: &[Target] = &[("qmp_lines", crate::qmp::fuzzing::read)];
