//! Bodies of the fuzz targets for what the provider reads; see `fuzz/README.md`.
//!
//! Each takes any bytes, and panics when something does not hold that has to hold for all bytes.

use golem_vm_protocol::fuzzing::Target;
use golem_vm_protocol::text::is_printable;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::config;
use crate::control::messages::{
    BuildImage, EventsQuery, ImportImage, JobOutcome, JobProgress, JobStarted, OwnerEvents,
    PullImage, Purged, Status,
};
use crate::doctor::http_date;
use crate::images::ImageName;
use crate::ports::holder;

/// Every target of this crate: its name and its body.
#[must_use]
pub fn targets() -> Vec<Target> {
    let own: [Target; 4] = [
        ("control_messages", control_messages),
        ("image_name", image_name),
        ("provider_settings", settings),
        ("kernel_tables", kernel_tables),
    ];
    [
        &own,
        crate::backend::docker::fuzzing::TARGETS,
        crate::backend::multipass::fuzzing::TARGETS,
        crate::forwarder::fuzzing::TARGETS,
    ]
    .concat()
}

/// What is said over the control socket is written as it was read.
fn control_messages(data: &[u8]) {
    fn reads_back<T: DeserializeOwned + Serialize + PartialEq>(data: &[u8]) {
        let Ok(value) = serde_json::from_slice::<T>(data) else { return };
        let written = serde_json::to_vec(&value).unwrap_or_default();
        assert!(serde_json::from_slice::<T>(&written).is_ok_and(|again| again == value));
    }
    reads_back::<BuildImage>(data);
    reads_back::<PullImage>(data);
    reads_back::<ImportImage>(data);
    reads_back::<JobStarted>(data);
    reads_back::<JobProgress>(data);
    reads_back::<JobOutcome>(data);
    reads_back::<Purged>(data);
    reads_back::<Status>(data);
    reads_back::<EventsQuery>(data);
    reads_back::<OwnerEvents>(data);
}

/// A name is harmless in a path and a tag.
fn image_name(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for name in [text.parse::<ImageName>(), ImageName::from_reference(text)] {
        match name {
            Ok(name) => {
                let name = name.as_str();
                assert!(name.len() <= 64 && !name.starts_with(['.', '-']) && !name.contains('/'));
                assert!(name.parse::<ImageName>().is_ok());
            }
            Err(error) => assert!(is_printable(&error.to_string(), 400)),
        }
    }
}

/// An amount is written as it was read.
fn settings(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(micros) = config::parse_micro_usd(text) {
        assert!(micros <= 1_000_000_000_000);
        let written = format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000);
        assert_eq!(config::parse_micro_usd(&written), Ok(micros));
    }
}

/// Files of the kernel, and another server's idea of the time.
fn kernel_tables(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for line in text.lines() {
        if let Some((_, _, inode)) = holder::parse_socket(line) {
            assert!(inode != 0);
        }
    }
    let _ = http_date::parse(text);
}
