//! Bodies of the fuzz targets for what machines, their tools and their guests say; see `fuzz/README.md`.
//!
//! Each takes any bytes, and panics when something does not hold that has to hold for all bytes.

use crate::{agent, disk, image, qmp, seed};

/// A target's name and its body.
pub type Target = (&'static str, fn(&[u8]));

/// Every target of this crate.
pub const TARGETS: &[Target] = &[
    ("agent_answers", agent::fuzzing::read),
    ("checksum_list", image::pull::fuzzing::checksum_list),
    ("disk_snapshots", disk::fuzzing::disk_snapshots),
    ("qcow2_header", disk::fuzzing::qcow2_header),
    ("qmp_lines", qmp::fuzzing::read),
    ("user_data", seed::fuzzing::read),
];
