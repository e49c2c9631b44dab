//! Bodies of the fuzz targets for what discovery reads; see `fuzz/README.md`.
//!
//! Each takes any bytes, and panics when something does not hold that has to hold for all bytes.

use golem_vm_protocol::KeyId;
use golem_vm_protocol::advertisement::{AdvertisementEntry, UnsignedAdvertisement};
use golem_vm_protocol::document::DocumentDigest;
use golem_vm_protocol::fuzzing::Target;
use golem_vm_protocol::text::is_printable;
use golem_vm_protocol::time::Timestamp;

use super::feed::{Row, State};
use super::index::Listed;
use super::search::{MAX_LIMIT, Search};
use super::unsigned::{UnsignedId, ValidUnsigned};

/// Every target of this crate: its name and its body.
pub const TARGETS: &[Target] = &[
    ("discovery_search", search),
    ("unsigned_advertisement", unsigned),
    ("stored_advertisement", stored),
];

/// A query: one parameter per line.
fn search(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    let Ok(search) = Search::parse(pairs) else { return };
    assert!((1..=MAX_LIMIT).contains(&search.limit));
    if let Some(cursor) = &search.after {
        let wire = cursor.encode();
        let again = Search::parse([("cursor", wire.as_str())]).ok().and_then(|search| search.after);
        assert_eq!(again.as_ref(), Some(cursor));
    }
}

/// What is taken from an unsigned caller can neither trouble a terminal nor pass for a key.
fn unsigned(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(id) = UnsignedId::parse(text)
    {
        assert!(is_printable(id.as_str(), 128) && !id.as_str().contains('/'));
        assert!(id.as_str().to_ascii_lowercase().parse::<KeyId>().is_err());
    }
    let Ok(said) = serde_json::from_slice::<UnsignedAdvertisement>(data) else { return };
    match ValidUnsigned::check(said) {
        Ok(valid) => {
            let said = valid.get();
            assert!(said.ip_address.parse::<std::net::Ipv4Addr>().is_ok());
            assert!(said.provider_name.as_deref().is_none_or(|name| is_printable(name, 64)));
            assert!(is_printable(&said.country, 2));
        }
        Err(errors) => assert!(!errors.is_empty()),
    }
}

/// A row that another process wrote into the database is an entry or an error; what is listed can
/// be read by who searches.
fn stored(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let at = Timestamp::from_unix_seconds(1_800_000_000);
    let signed = (1, DocumentDigest::of(data));
    for signed in [None, Some(signed)] {
        let row = Row {
            revision: 1,
            provider_id: "provider".to_owned(),
            signed,
            state: State::Live,
            content: Some(text.to_owned()),
            observed_address: "192.0.2.1".to_owned(),
            created_at: at,
            updated_at: at,
            last_seen: at,
            expires_at: at,
        };
        if let Ok(listed) = Listed::from_row(&row) {
            let entry = serde_json::from_slice::<AdvertisementEntry>(&listed.json);
            assert!(entry.is_ok_and(|entry| entry.verified == signed.is_some()));
        }
    }
}
