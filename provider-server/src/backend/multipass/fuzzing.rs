//! Bodies of the fuzz targets for what Multipass says; see `fuzz/README.md`.

use golem_vm_protocol::fuzzing::Target;
use golem_vm_protocol::text::is_printable;

use super::names::Name;
use super::program::Said;
use super::reading;
use super::said;
use super::version::Version;

/// Every target of this module: its name and its body.
pub const TARGETS: &[Target] = &[("multipass_json", json), ("multipass_words", words)];

/// Whatever it says in JSON amounts to values within its length.
fn json(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(all) = reading::list(&text) {
        assert!(all.len() <= text.len());
        for listed in all {
            if let Some(address) = reading::address(&listed.addresses, None) {
                assert!(!address.is_unspecified() && !address.is_multicast());
            }
            if let Ok(name) = listed.name.parse::<Name>() {
                assert!(name.as_str().len() <= 63 && is_printable(name.as_str(), 63));
            }
        }
    }
    let _ = reading::info(&text, "vm1");
    let _ = reading::snapshots(&text, "vm1");
    if let Ok(names) = reading::images(&text) {
        assert!(names.windows(2).all(|two| two[0] < two[1]), "each once");
    }
    if let Ok((client, daemon)) = reading::versions(&text) {
        for version in std::iter::once(client).chain(daemon) {
            if let Ok(known) = version.parse::<Version>() {
                assert_eq!(known.to_string().parse::<Version>(), Ok(known));
            }
        }
    }
}

/// Whatever it writes to standard error can be shown.
fn words(data: &[u8]) {
    let stderr = String::from_utf8_lossy(data).into_owned();
    let (_, message) = said::understood(&Said { code: Some(2), stdout: String::new(), stderr });
    assert!(is_printable(&message, 401), "{message:?}");
}
