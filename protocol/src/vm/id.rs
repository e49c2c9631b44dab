//! What a VM is called: its id, for ever unique, and the name that its owner gave it.

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use data_encoding::{Encoding, Specification};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Crockford's base32, lower case. Source: D. Crockford, <https://www.crockford.com/base32.html>.
static CROCKFORD: LazyLock<Encoding> = LazyLock::new(|| {
    let mut spec = Specification::new();
    spec.symbols.push_str("0123456789abcdefghjkmnpqrstvwxyz");
    #[expect(clippy::expect_used, reason = "the alphabet is a constant of 32 distinct symbols")]
    spec.encoding().expect("Crockford base32 is a valid specification")
});

const PREFIX: &str = "vm_";
const DIGITS: usize = 26;

/// A text that is not a VM id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a VM id is 'vm_' and {DIGITS} characters of Crockford base32")]
pub struct VmIdError;

/// A VM's id: `vm_` + 26 characters of Crockford base32, 128 random bits. Unique for ever.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VmId([u8; 16]);

impl VmId {
    /// A fresh id.
    ///
    /// # Errors
    /// When the operating system gives no random bytes.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// From given bits, for tests.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for VmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", CROCKFORD.encode(&self.0))
    }
}

impl fmt::Debug for VmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for VmId {
    type Err = VmIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.strip_prefix(PREFIX).filter(|d| d.len() == DIGITS).ok_or(VmIdError)?;
        let bytes = CROCKFORD.decode(digits.as_bytes()).map_err(|_| VmIdError)?;
        Ok(Self(bytes.try_into().map_err(|_| VmIdError)?))
    }
}

impl Serialize for VmId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for VmId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The rule for names, in words.
pub const VM_NAME_RULE: &str = "3 to 64 characters a-z, 0-9 and '-', beginning and ending with a \
                                letter or digit, without '--', and not 'jobs'";

/// A text that is not a VM name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a VM name is {VM_NAME_RULE}")]
pub struct VmNameError;

/// The name an owner gave a VM: see [`VM_NAME_RULE`] (the original's rule; `jobs` is a route).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VmName(String);

impl VmName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for VmName {
    type Err = VmNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let edge =
            |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        let legal = (3..=64).contains(&text.len())
            && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
            && edge(text.chars().next())
            && edge(text.chars().next_back())
            && !text.contains("--")
            && text != "jobs";
        if legal { Ok(Self(text.to_owned())) } else { Err(VmNameError) }
    }
}

impl fmt::Display for VmName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for VmName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for VmName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// What stands for a VM in a path: its id or its name. The `_` of an id keeps the two apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum VmRef {
    /// By id.
    Id(VmId, String),
    /// By the owner's name for it.
    Name(VmName),
}

impl VmRef {
    /// The text as it stands in a path.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Id(_, text) => text,
            Self::Name(name) => name.as_str(),
        }
    }
}

impl From<VmId> for VmRef {
    fn from(id: VmId) -> Self {
        Self::Id(id, id.to_string())
    }
}

impl From<VmName> for VmRef {
    fn from(name: VmName) -> Self {
        Self::Name(name)
    }
}

impl FromStr for VmRef {
    type Err = VmNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse::<VmId>() {
            Ok(id) => Ok(id.into()),
            Err(_) => text.parse().map(Self::Name),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_id_reads_back_and_is_never_a_name() {
        let id = VmId::from_bytes([0xab; 16]);
        let text = id.to_string();
        assert_eq!(text.len(), 29);
        assert_eq!(text.parse::<VmId>().unwrap(), id);
        assert!(text.parse::<VmName>().is_err());
        assert!(matches!(text.parse::<VmRef>().unwrap(), VmRef::Id(read, _) if read == id));
    }

    #[test]
    fn ids_have_one_spelling() {
        let text = VmId::from_bytes([0xab; 16]).to_string();
        assert!(text.to_uppercase().parse::<VmId>().is_err());
        assert!(format!("{}1", &text[..28]).parse::<VmId>().is_err());
        assert!("vm_".parse::<VmId>().is_err());
    }

    #[test]
    fn names_follow_the_rule() {
        for good in ["box", "my-webserver", "a1b", "0-0", &"a".repeat(64)] {
            assert!(good.parse::<VmName>().is_ok(), "{good}");
        }
        for bad in
            ["", "ab", "-ab", "ab-", "a--b", "Box", "a_b", "a b", "jobs", "bücher", &"a".repeat(65)]
        {
            assert!(bad.parse::<VmName>().is_err(), "{bad}");
        }
    }
}
