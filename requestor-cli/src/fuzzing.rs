//! Bodies of the fuzz targets for what `golem` reads; see `fuzz/README.md`.
//!
//! Each takes any bytes, and panics when something does not hold that has to hold for all bytes.

use bytes::Bytes;
use golem_vm_protocol::fuzzing::Target;
use golem_vm_protocol::text::is_printable;
use golem_vm_protocol::time::Timestamp;
use golem_vm_protocol::vm::SshPublicKey;
use golem_vm_protocol::{KeyId, VmId};
use http::StatusCode;

use crate::client::exchange;
use crate::client::listing::{self, Fault};
use crate::config::parse_discovery_url;
use crate::console_text::ConsoleText;
use crate::ssh::builtin::key_file;
use crate::ssh::known_hosts;

/// Every target of this crate: its name and its body.
pub const TARGETS: &[Target] = &[
    ("discovery_listing", entry),
    ("provider_refusal", refusal),
    ("console_text", console_text),
    ("ssh_private_key", private_key),
    ("known_hosts_line", known_hosts_line),
    ("discovery_url", discovery_url),
];

/// An entry is believed only with the document of its own provider, and refused with a harmless line.
fn entry(data: &[u8]) {
    let Ok(value) = serde_json::from_slice(data) else { return };
    match listing::read(value, Timestamp::from_unix_seconds(1_800_000_000)) {
        Ok((listing, fault)) => {
            let signed = listing.document.is_some();
            assert!(signed || listing.entry.provider_id.parse::<KeyId>().is_err());
            if let Some(document) = listing.document {
                assert_eq!(document.signer.to_string(), listing.entry.provider_id);
                assert_eq!(document.content.provider_id, document.signer);
            }
            harmless(fault.as_ref());
        }
        Err(fault) => harmless(Some(&fault)),
    }
}

fn harmless(fault: Option<&Fault>) {
    if let Some(fault) = fault {
        assert!(is_printable(&fault.provider, 100), "{:?}", fault.provider);
        assert!(is_printable(&fault.lie.to_string(), 1000), "{}", fault.lie);
    }
}

/// What a provider answers with an error is an error that can be shown.
fn refusal(data: &[u8]) {
    let (status, body) = data.split_at(data.len().min(1));
    let status = 400 + u16::from(status.first().copied().unwrap_or(0)) % 200;
    let Ok(status) = StatusCode::from_u16(status) else { return };
    if let Err(error) = exchange::judged(status, Bytes::copy_from_slice(body), 1) {
        let shown = error.to_string();
        assert!(is_printable(&shown, 1000), "{shown:?}");
    }
}

/// A private key is understood or not; its public half is a key.
fn private_key(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = key_file::readiness(text);
    if let Some(public) = key_file::public_half(text) {
        assert!(!public.contains("PRIVATE"));
    }
}

/// Whatever host key a provider names, the file of known hosts has one line for it, under the VM's id.
fn known_hosts_line(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(key) = text.parse::<SshPublicKey>() else { return };
    let id = VmId::from_bytes([1; 16]);
    let content = known_hosts::content(std::iter::once((id, &key)));
    let lines: Vec<_> = content.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(lines.len(), 1, "{content:?}");
    let fields: Vec<_> = lines.iter().flat_map(|line| line.split(' ')).collect();
    assert_eq!(fields.len(), 3, "{content:?}");
    assert_eq!(fields.first().copied(), Some(id.to_string().as_str()));
}

/// Whatever a guest writes, and however it is cut, what is shown of its console is the same harmless text.
fn console_text(data: &[u8]) {
    let whole = ConsoleText::default().push(data);
    assert!(whole.lines().all(|line| is_printable(line, usize::MAX)), "{whole:?}");
    let mut reader = ConsoleText::default();
    let size = data.first().map_or(1, |byte| usize::from(*byte % 16) + 1);
    let parts: String = data.chunks(size).map(|part| reader.push(part)).collect();
    assert_eq!(parts, whole);
}

/// What is taken for a discovery server's address is a host and a port over HTTP, and nothing else.
fn discovery_url(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(url) = parse_discovery_url(text) else { return };
    assert_eq!(url.scheme(), "http");
    assert!(url.host_str().is_some_and(|host| !host.is_empty()));
    assert!(url.username().is_empty() && url.password().is_none(), "{url}");
    assert_eq!(parse_discovery_url(url.as_str()).ok().as_ref(), Some(&url));
}
