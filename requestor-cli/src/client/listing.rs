//! One entry of discovery's list: read, checked against the provider's signature, and where it
//! lies, named. Discovery is not trusted with more than leaving something out.

use std::fmt;

use golem_vm_protocol::KeyId;
use golem_vm_protocol::advertisement::{
    Advertisement, AdvertisementEntry, AdvertisementError, Pricing,
};
use golem_vm_protocol::document::{DocumentError, Verified};
use golem_vm_protocol::text::printable;
use golem_vm_protocol::time::Timestamp;
use serde_json::Value;

use crate::market::Vouched;

/// One entry of the list.
#[derive(Debug, Clone)]
pub struct Listing {
    /// As it was received; of a signed entry the flat fields are the signed document's.
    pub received: Value,
    /// Its flat fields. Of a signed entry nothing here is relied on but `last_seen`.
    pub entry: AdvertisementEntry,
    /// The provider's own words; `None` for a provider that signs nothing.
    pub document: Option<Verified<Advertisement>>,
    /// Who vouches for its ports; nobody, until that was looked at.
    pub vouched: Vouched,
}

impl Listing {
    /// The sequence of the signed document.
    #[must_use]
    pub fn sequence(&self) -> Option<u64> {
        self.document.as_ref().map(|document| document.content.sequence)
    }
}

/// What is wrong with something that discovery gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lie {
    /// It is no entry at all.
    Unreadable(String),
    /// The signed document of an entry that is said to be signed is missing.
    Unsigned,
    /// The signature does not fit the words: they were altered, or are no advertisement.
    Altered(String),
    /// The document speaks for this provider and is signed by another key.
    Invented(KeyId),
    /// The document is another provider's.
    Swapped(KeyId),
    /// It is over.
    Expired(Timestamp),
    /// Its times or fields can't be.
    Implausible(String),
    /// A newer one was seen before.
    Stale {
        /// Its sequence.
        sequence: u64,
        /// The highest that was seen.
        known: u64,
    },
    /// Another document of the same sequence was seen before: that is the provider's own doing.
    Forked(u64),
    /// The same provider stands in one answer twice.
    Twice(u64),
    /// The flat fields say something else than the document. The document counts.
    FlatFields(String),
}

impl Lie {
    /// One word, the same for ever, for programs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Unreadable(_) => "unreadable",
            Self::Unsigned => "unsigned",
            Self::Altered(_) => "altered",
            Self::Invented(_) => "invented",
            Self::Swapped(_) => "swapped",
            Self::Expired(_) => "expired",
            Self::Implausible(_) => "implausible",
            Self::Stale { .. } => "stale",
            Self::Forked(_) => "forked",
            Self::Twice(_) => "twice",
            Self::FlatFields(_) => "flat_fields",
        }
    }

    /// Whether the provider's own, signed words could be used in spite of it.
    #[must_use]
    pub const fn leaves_the_document(&self) -> bool {
        matches!(self, Self::FlatFields(_) | Self::Twice(_))
    }

    /// Whether a wrong clock on this machine would look the same.
    #[must_use]
    pub const fn may_be_our_clock(&self) -> bool {
        matches!(self, Self::Expired(_) | Self::Implausible(_))
    }
}

impl fmt::Display for Lie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(why) => write!(f, "an entry that can't be read ({why})"),
            Self::Unsigned => f.write_str("said to be signed, but the signed document is missing"),
            Self::Altered(why) => write!(
                f,
                "altered, or no advertisement at all: the signature does not fit it ({why})"
            ),
            Self::Invented(signer) => {
                write!(f, "invented: signed by another key, {}", signer.short())
            }
            Self::Swapped(other) => {
                write!(f, "the signed document is another provider's, {}", other.short())
            }
            Self::Expired(at) => write!(f, "expired at {at}"),
            Self::Implausible(why) => f.write_str(why),
            Self::Stale { sequence, known } => {
                write!(f, "an old one: sequence {sequence}, while {known} was seen before")
            }
            Self::Forked(sequence) => write!(
                f,
                "another one with the sequence {sequence} was seen before; that is the provider's own doing"
            ),
            Self::Twice(sequence) => {
                write!(f, "listed twice in one answer; the one with sequence {sequence} counts")
            }
            Self::FlatFields(which) => {
                write!(
                    f,
                    "the plain fields differ from what was signed: {which}; the signed ones count"
                )
            }
        }
    }
}

/// What discovery did about which provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The id that the entry is listed under, safe to print, perhaps cut short.
    pub provider: String,
    /// What is wrong.
    pub lie: Lie,
}

impl Fault {
    /// About the provider `id`.
    #[must_use]
    pub fn of(id: &KeyId, lie: Lie) -> Self {
        Self { provider: id.to_string(), lie }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short: String = self.provider.chars().take(12).collect();
        write!(f, "{short}: {}", self.lie)
    }
}

/// Reads and checks one entry. Beside a good one there may be a fault that leaves its document
/// usable.
///
/// # Errors
/// What is wrong with it.
pub fn read(mut received: Value, now: Timestamp) -> Result<(Listing, Option<Fault>), Fault> {
    let claimed = received.get("provider_id").and_then(Value::as_str).unwrap_or("?");
    let provider = printable(claimed, 64);
    let fault = |lie| Fault { provider: provider.clone(), lie };
    let entry: AdvertisementEntry = serde_json::from_value(received.clone())
        .map_err(|error| fault(Lie::Unreadable(printable(&error.to_string(), 160))))?;
    let Some(envelope) = &entry.document else {
        if entry.verified || entry.provider_id.parse::<KeyId>().is_ok() {
            return Err(fault(Lie::Unsigned));
        }
        let vouched = Vouched::default();
        return Ok((Listing { received, entry, document: None, vouched }, None));
    };
    let document = envelope.open::<Advertisement>().map_err(|error| {
        fault(match error {
            DocumentError::Content(why) => Lie::Implausible(printable(&why, 160)),
            error => Lie::Altered(printable(&error.to_string(), 200)),
        })
    })?;
    if document.content.provider_id != document.signer {
        return Err(fault(Lie::Invented(document.signer)));
    }
    if entry.provider_id != document.signer.to_string() {
        return Err(fault(Lie::Swapped(document.signer)));
    }
    Advertisement::check(&document, now).map_err(|error| {
        fault(match error {
            AdvertisementError::Expired(at) => Lie::Expired(at),
            error => Lie::Implausible(printable(&error.to_string(), 200)),
        })
    })?;
    let wrong = straightened(&mut received, &document.content);
    let fault = (!wrong.is_empty()).then(|| fault(Lie::FlatFields(wrong.join(", "))));
    let vouched = Vouched::default();
    Ok((Listing { received, entry, document: Some(document), vouched }, fault))
}

/// Puts the document's words into the flat fields, and says which of them were others: whoever
/// reads only those, reads what the provider signed.
fn straightened(received: &mut Value, document: &Advertisement) -> Vec<String> {
    let pricing = Pricing::from(document.prices);
    let mut truth = vec![
        ("country", serde_json::json!(document.country)),
        ("resources", serde_json::json!(document.resources)),
        ("pricing", serde_json::json!(pricing)),
        ("provider_name", serde_json::json!(document.name)),
        ("platform", serde_json::json!(document.platform)),
        ("verified", serde_json::json!(true)),
    ];
    if let Some((api, _)) = document.direct_endpoint() {
        truth.push(("ip_address", serde_json::json!(host_of(api))));
    }
    let mut wrong = Vec::new();
    let Some(fields) = received.as_object_mut() else { return wrong };
    for (name, value) in truth {
        let said = fields.get(name).unwrap_or(&Value::Null);
        let same = match name {
            "pricing" => same_prices(said, &pricing),
            // A number may be written in more than one way.
            "resources" => serde_json::from_value(said.clone())
                .is_ok_and(|said: golem_vm_protocol::VmResources| said == document.resources),
            _ => *said == value,
        };
        if !same {
            wrong.push(format!("{name} {}", printable(&said.to_string(), 60)));
            fields.insert(name.to_owned(), value);
        }
    }
    wrong
}

/// Whether these are the prices in USD, up to a micro-USD. Prices in GLM are nobody's promise.
fn same_prices(said: &Value, truth: &Pricing) -> bool {
    let Ok(said) = serde_json::from_value::<Pricing>(said.clone()) else { return false };
    let near = |a: f64, b: f64| (a - b).abs() < 1e-6;
    near(said.usd_per_core_month, truth.usd_per_core_month)
        && near(said.usd_per_gb_ram_month, truth.usd_per_gb_ram_month)
        && near(said.usd_per_gb_storage_month, truth.usd_per_gb_storage_month)
}

/// The host of `host:port`, without the brackets of an IPv6 address.
fn host_of(api: &str) -> &str {
    let host = api.rsplit_once(':').map_or(api, |(host, _)| host);
    host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host)
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]
    use golem_vm_protocol::KeyPair;
    use golem_vm_protocol::document::{Document, Envelope};
    use serde_json::json;

    use super::*;

    fn key() -> KeyPair {
        KeyPair::from_secret_bytes([9; 32]).unwrap()
    }

    fn advertisement(sequence: u64) -> Advertisement {
        serde_json::from_value(json!({
            "provider_id": key().id(), "sequence": sequence,
            "issued_at": "2026-11-21T10:00:00Z", "expires_at": "2026-11-21T10:05:00Z",
            "name": "p", "country": "SE", "platform": "x86_64",
            "resources": {"cpu": 4, "memory": 8, "storage": 40},
            "endpoints": [{"kind": "direct", "api": "127.0.0.1:7466", "ssh_host": "127.0.0.1"}],
            "offers": [],
            "prices": {"core_month": 5_000_000, "gb_ram_month": 2, "gb_storage_month": 1},
        }))
        .unwrap()
    }

    pub(in super::super) fn entry(sequence: u64) -> Value {
        listed(Envelope::seal(&advertisement(sequence), &key()).unwrap())
    }

    fn listed(envelope: Envelope) -> Value {
        json!({
            "provider_id": key().id(), "ip_address": "127.0.0.1", "country": "SE",
            "resources": {"cpu": 4, "memory": 8, "storage": 40},
            "pricing": {"usd_per_core_month": 5.0, "usd_per_gb_ram_month": 0.000_002,
                        "usd_per_gb_storage_month": 0.000_001},
            "created_at": "2026-11-21T10:00:00.000000", "updated_at": "2026-11-21T10:00:00.000000",
            "provider_name": "p", "platform": "x86_64",
            "verified": true, "document": envelope,
        })
    }

    pub(in super::super) fn moment() -> Timestamp {
        "2026-11-21T10:01:00Z".parse().unwrap()
    }

    #[track_caller]
    fn lie(entry: Value) -> Lie {
        read(entry, moment()).unwrap_err().lie
    }

    #[test]
    fn a_signed_entry_is_believed() {
        let (listing, fault) = read(entry(1), moment()).unwrap();
        assert_eq!((listing.sequence(), fault), (Some(1), None));
        let late = "2026-11-21T11:00:00Z".parse().unwrap();
        assert!(matches!(read(entry(1), late).unwrap_err().lie, Lie::Expired(_)));
    }

    #[test]
    fn altered_words_are_not_believed() {
        let mut altered = entry(1);
        altered["document"]["payload"] = json!("e30");
        assert!(matches!(lie(altered), Lie::Altered(_)));
        // Each byte of the payload counts: a price, an endpoint, a sequence.
        let text = entry(1)["document"]["payload"].as_str().unwrap().to_owned();
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let mut altered = entry(1);
            altered["document"]["payload"] = json!(String::from_utf8(bytes).unwrap());
            assert!(matches!(lie(altered), Lie::Altered(_)), "byte {at}");
        }
    }

    #[test]
    fn a_document_of_another_type_is_no_advertisement() {
        #[derive(serde::Serialize, serde::Deserialize)]
        #[serde(transparent)]
        struct Note(Advertisement);
        impl Document for Note {
            const TYPE: &'static str = "note";
        }
        let envelope = Envelope::seal(&Note(advertisement(1)), &key()).unwrap();
        assert!(matches!(lie(listed(envelope)), Lie::Altered(_)));
    }

    #[test]
    fn nobody_speaks_for_another_key() {
        let other = KeyPair::from_secret_bytes([10; 32]).unwrap();
        let envelope = Envelope::seal(&advertisement(1), &other).unwrap();
        assert_eq!(lie(listed(envelope)), Lie::Invented(other.id()));
        let mut swapped = entry(1);
        swapped["provider_id"] = json!(other.id());
        assert_eq!(lie(swapped), Lie::Swapped(key().id()));
    }

    #[test]
    fn a_signature_that_was_taken_away_is_missed() {
        let mut stripped = entry(1);
        stripped.as_object_mut().unwrap().remove("document");
        assert_eq!(lie(stripped.clone()), Lie::Unsigned);
        stripped["verified"] = json!(false);
        assert_eq!(lie(stripped.clone()), Lie::Unsigned, "an unsigned id is no key");
        stripped["provider_id"] = json!("0x21\u{1b}[31m");
        assert!(read(stripped, moment()).unwrap().0.document.is_none());
        assert!(matches!(lie(json!(3)), Lie::Unreadable(_)));
    }

    #[test]
    fn plain_fields_say_what_was_signed() {
        let mut lying = entry(1);
        lying["pricing"]["usd_per_core_month"] = json!(0.01);
        lying["ip_address"] = json!("192.0.2.66");
        lying["resources"]["cpu"] = json!(64);
        let (listing, fault) = read(lying, moment()).unwrap();
        let fault = fault.unwrap();
        assert_eq!((fault.lie.code(), fault.lie.leaves_the_document()), ("flat_fields", true));
        let said = fault.to_string();
        for part in ["ip_address \"192.0.2.66\"", "resources {\"cpu\":64", "pricing {"] {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert_eq!(listing.received["resources"]["cpu"], 4);
        assert_eq!(listing.received["pricing"]["usd_per_core_month"], 5.0);
        assert_eq!(listing.received["ip_address"], "127.0.0.1");
    }
}
