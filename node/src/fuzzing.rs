//! Bodies of the fuzz targets for what this crate reads; see `fuzz/README.md`.
//!
//! Each takes any bytes, and panics when something does not hold that has to hold for all bytes.

use std::net::IpAddr;

use ::http::{HeaderMap, HeaderName, HeaderValue};

use golem_vm_protocol::fuzzing::Target;

use crate::http::{Cidr, PublicName, TrustedProxies, forwarded_hops, x_forwarded_for_hops};
use crate::{key_file, settings, sqlite};

/// Every target of this crate: its name and its body.
pub const TARGETS: &[Target] = &[
    ("settings_files", settings_files),
    ("settings_values", settings_values),
    ("key_file", identity),
    ("forwarded_headers", forwarded_headers),
];

fn settings_files(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        settings::fuzzing::files(text);
    }
}

/// Names of servers, ranges of addresses and places of databases have one meaning each.
fn settings_values(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(name) = text.parse::<PublicName>() {
        assert_eq!(name.to_string(), text.to_ascii_lowercase());
        assert_eq!(name.as_ref().parse::<PublicName>().as_ref(), Ok(&name));
        assert!(!name.as_ref().contains(['/', '@', ' ', '"', '\\']));
    }
    if let Ok(range) = text.parse::<Cidr>() {
        let written = range.to_string();
        let again = written.parse::<Cidr>();
        assert_eq!(again.as_ref().ok(), Some(&range), "{written}");
    }
    if let Ok(path) = sqlite::parse_url(text) {
        assert!(path.file_name().is_some() || path.components().count() > 0);
    }
}

/// A key file holds one key, in one spelling but for white space around it.
fn identity(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(key) = key_file::decode(text) {
        assert_eq!(key_file::encode(&key).trim(), text.trim());
        assert!(
            !format!("{key:?}").contains(text.trim().trim_start_matches("golem-ed25519-secret:"))
        );
    }
}

/// Who is no trusted proxy is the client, whatever the headers say; what a trusted one added last
/// can't be swallowed by what stands before it.
fn forwarded_headers(data: &[u8]) {
    const PROXY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const STRANGER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 7));
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n') {
        let end = line.iter().position(|byte| *byte == b':').unwrap_or(0);
        let (name, value) = line.split_at(end);
        let value = value.strip_prefix(b":").unwrap_or(value);
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
        {
            headers.append(name, value);
        }
    }
    let proxies = TrustedProxies::new("192.0.2.1/32".parse().into_iter().collect());
    assert_eq!(proxies.client(STRANGER, &headers), Ok(STRANGER));
    // The same with what an honest proxy adds: a line of its own.
    for (name, value) in
        [("x-forwarded-for", "198.51.100.7"), ("forwarded", "for=198.51.100.7;proto=http")]
    {
        let other = if name == "forwarded" { "x-forwarded-for" } else { "forwarded" };
        let mut added = headers.clone();
        added.remove(other);
        added.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        assert_eq!(proxies.client(PROXY, &added), Ok(STRANGER), "{added:?}");
    }
    if let Ok(text) = std::str::from_utf8(data)
        && let Some(hops) = forwarded_hops(text)
    {
        // What another hop adds behind is read as one more, and changes nothing before it.
        let more = forwarded_hops(&format!("{text}, for=192.0.2.9"));
        assert_eq!(more.as_ref().map(Vec::len), Some(hops.len() + 1), "{text:?}");
        assert_eq!(more.and_then(|hops| hops.last().copied()), Some("192.0.2.9".parse().ok()));
    }
    if let Ok(text) = std::str::from_utf8(data) {
        let hops = x_forwarded_for_hops(text).unwrap_or_default();
        assert_eq!(hops.len(), text.split(',').count());
    }
}
