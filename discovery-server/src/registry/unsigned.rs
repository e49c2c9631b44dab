//! Advertisements that nobody signed: those of the original's providers.

use std::net::Ipv4Addr;

use golem_vm_protocol::FieldError;
use golem_vm_protocol::advertisement::UnsignedAdvertisement;
use golem_vm_protocol::identity::{KEY_PREFIX_MIN_LENGTH, KeyPrefix};
use golem_vm_protocol::text::is_printable;

/// Longest id of an unsigned provider in bytes.
pub const MAX_ID_BYTES: usize = 128;
/// Largest pricing object, in bytes of JSON.
const MAX_PRICING_BYTES: usize = 2048;

/// What an unsigned provider calls itself: printable ASCII, and nothing that could be taken for
/// a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnsignedId(String);

impl UnsignedId {
    /// Checks a claimed id.
    ///
    /// # Errors
    /// What is wrong with it, for a person.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if looks_like_a_key(text) {
            return Err(
                "its first eight characters read like the beginning of a key, which stands for somebody who signs",
            );
        }
        let good = (1..=MAX_ID_BYTES).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_graphic() && b != b'/');
        if good {
            Ok(Self(text.to_owned()))
        } else {
            Err("has to be 1 to 128 printable characters")
        }
    }

    /// The id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether a person could take `text` for the id of a key, whether or not it is one: ids are shown
/// and typed by their beginning, so that is what must not read like a key's.
fn looks_like_a_key(text: &str) -> bool {
    let beginning = text.get(..KEY_PREFIX_MIN_LENGTH).map(str::to_ascii_lowercase);
    beginning.is_some_and(|beginning| beginning.parse::<KeyPrefix>().is_ok())
}

/// An unsigned advertisement whose fields are as they have to be.
#[derive(Debug, Clone, PartialEq)]
pub struct ValidUnsigned(UnsignedAdvertisement);

impl ValidUnsigned {
    /// Checks every field by the original's rules, and that nothing in it can trouble a terminal.
    ///
    /// # Errors
    /// All wrong fields.
    pub fn check(advertisement: UnsignedAdvertisement) -> Result<Self, Vec<FieldError>> {
        let said = &advertisement;
        let mut errors = Vec::new();
        let mut field = |pointer: &str, good: bool, reason: &str| {
            if !good {
                errors.push(FieldError::new(pointer, reason));
            }
        };
        field(
            "/ip_address",
            said.ip_address.parse::<Ipv4Addr>().is_ok(),
            "has to be an IPv4 address",
        );
        let two = said.country.chars().count() == 2 && is_printable(&said.country, 2);
        field("/country", two, "has to be two printable characters");
        field("/resources/cpu", said.resources.cpu >= 1, "CPU cores must be >= 1");
        field("/resources/memory", said.resources.memory >= 1, "Memory must be >= 1 GB");
        field("/resources/storage", said.resources.storage >= 1, "Storage must be >= 1 GB");
        let pricing = said.pricing.as_ref().is_none_or(is_plain_object);
        field("/pricing", pricing, "has to be null or an object of numbers and short texts");
        let label =
            |text: &Option<String>, max| text.as_deref().is_none_or(|text| is_printable(text, max));
        field("/platform", label(&said.platform, 32), "has to be at most 32 printable characters");
        let name = label(&said.provider_name, 64);
        field("/provider_name", name, "has to be at most 64 printable characters");
        if errors.is_empty() { Ok(Self(advertisement)) } else { Err(errors) }
    }

    pub(super) const fn get(&self) -> &UnsignedAdvertisement {
        &self.0
    }
}

fn is_plain_object(value: &serde_json::Value) -> bool {
    let Some(members) = value.as_object() else {
        return value.is_null();
    };
    let plain = members.iter().all(|(key, value)| {
        is_printable(key, 64)
            && match value {
                serde_json::Value::String(text) => is_printable(text, 64),
                serde_json::Value::Array(_) | serde_json::Value::Object(_) => false,
                _ => true,
            }
    });
    plain && value.to_string().len() <= MAX_PRICING_BYTES
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use golem_vm_protocol::KeyPair;

    use super::*;

    fn check(json: &str) -> Result<ValidUnsigned, Vec<FieldError>> {
        ValidUnsigned::check(serde_json::from_str(json).unwrap())
    }

    #[test]
    fn an_id_is_never_a_key_nor_looks_like_one() {
        let key = KeyPair::from_secret_bytes([7; 32]).unwrap().id().to_string();
        for bad in [
            key.as_str(),
            &key.to_uppercase(),
            &"y".repeat(52),
            &key[..8],
            &key[..20],
            "",
            "a b",
            "a\u{7f}",
            "ü",
            "a/b",
        ] {
            assert!(UnsignedId::parse(bad).is_err(), "{bad}");
        }
        assert!(UnsignedId::parse(&format!("{}-evil", &key[..8])).is_err());
        assert!(UnsignedId::parse(&"0".repeat(129)).is_err());
        for good in
            ["0x21995069BEb0FA8324d32Ba3783387B6F13261d6", "provider-1", "short", &"0".repeat(128)]
        {
            assert!(UnsignedId::parse(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn every_wrong_field_is_told() {
        let good = r#"{"ip_address":"127.0.0.1","country":"SE","resources":{"cpu":"2","memory":1.9,"storage":10},"extra":1}"#;
        assert!(check(good).is_ok());
        let bad = r#"{"ip_address":"localhost","country":"SWE","resources":{"cpu":0,"memory":0,"storage":0},
            "pricing":[],"platform":"\u001b[31m","provider_name":"\u202e"}"#;
        let pointers: Vec<_> = check(bad).unwrap_err().into_iter().map(|e| e.pointer).collect();
        assert_eq!(
            pointers,
            [
                "/ip_address",
                "/country",
                "/resources/cpu",
                "/resources/memory",
                "/resources/storage",
                "/pricing",
                "/platform",
                "/provider_name"
            ]
        );
    }

    #[test]
    fn prices_are_plain_and_bounded() {
        assert!(is_plain_object(&serde_json::json!({"usd_per_core_month": 5.0, "note": null})));
        for bad in [
            serde_json::json!({"a": {"b": 1}}),
            serde_json::json!({"a": "\u{1b}[0m"}),
            serde_json::json!("x"),
            serde_json::json!(
                (0..300).map(|n| (n.to_string(), n)).collect::<std::collections::BTreeMap<_, _>>()
            ),
        ] {
            assert!(!is_plain_object(&bad), "{bad}");
        }
    }
}
