//! What our instances are called in Multipass.
//!
//! Multipass has no labels, so a name says all: whose it is, which VM's, and at which attempt it was
//! launched. A name is never used twice, because a launch that failed can spoil its name for ever, and one
//! that was given up can still appear under it.

use std::fmt;
use std::str::FromStr;

use golem_vm_protocol::{KeyId, VmId};

/// Characters of the provider's id in a name.
const PROVIDER: usize = 10;
/// Characters of a VM's id without `vm_`.
const VM: usize = 26;
/// Characters that tell attempts apart.
const ATTEMPT: usize = 8;

/// An instance's name: `golem-` + 10 characters of the provider's id + 26 of the VM's id + 8 for the attempt,
/// 53 in all. Legal for Multipass and as a host name (at most 63).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Name {
    text: String,
    vm: VmId,
}

impl Name {
    /// A new one, for an attempt to launch that VM's instance.
    ///
    /// # Errors
    /// When the operating system gives no random bytes.
    pub(super) fn fresh(provider: &KeyId, vm: VmId) -> Result<Self, String> {
        let mut random = [0; ATTEMPT / 2];
        getrandom::fill(&mut random).map_err(|error| format!("no random bytes: {error}"))?;
        let digits = vm.to_string().trim_start_matches("vm_").to_owned();
        let attempt = data_encoding::HEXLOWER.encode(&random);
        Ok(Self { text: format!("golem-{}-{digits}-{attempt}", short(provider)), vm })
    }

    /// The name, if it is that of an instance of this provider.
    pub(super) fn of(provider: &KeyId, text: &str) -> Option<Self> {
        let name: Self = text.parse().ok()?;
        name.text.strip_prefix("golem-")?.starts_with(&short(provider)).then_some(name)
    }

    /// The VM behind which it stands.
    pub(super) const fn vm(&self) -> VmId {
        self.vm
    }

    pub(super) fn as_str(&self) -> &str {
        &self.text
    }
}

fn short(provider: &KeyId) -> String {
    let mut text = provider.to_string();
    text.truncate(PROVIDER);
    text
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong =
            || format!("'{}' is no name of ours", golem_vm_protocol::text::printable(text, 80));
        let parts: Vec<&str> = text.split('-').collect();
        let [_, provider, digits, attempt] = <[&str; 4]>::try_from(parts)
            .ok()
            .filter(|parts| parts[0] == "golem")
            .ok_or_else(wrong)?;
        let is_lower =
            |part: &str| part.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        let lengths = (provider.len(), digits.len(), attempt.len()) == (PROVIDER, VM, ATTEMPT);
        if !(lengths && is_lower(provider) && is_lower(attempt)) {
            return Err(wrong());
        }
        let vm = format!("vm_{digits}").parse().map_err(|_| wrong())?;
        Ok(Self { text: text.to_owned(), vm })
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeSet;

    use golem_vm_protocol::KeyPair;

    use super::*;

    fn provider(number: u8) -> KeyId {
        KeyPair::from_secret_bytes([number; 32]).unwrap().id()
    }

    #[test]
    fn each_attempt_has_a_legal_name_of_its_own() {
        let vm = VmId::from_bytes([7; 16]);
        let names: BTreeSet<Name> =
            (0..50).map(|_| Name::fresh(&provider(1), vm).unwrap()).collect();
        assert_eq!(names.len(), 50, "a name is used twice");
        for name in names {
            let text = name.as_str();
            assert!(text.len() <= 63, "{text}");
            assert!(text.starts_with(|c: char| c.is_ascii_alphabetic()));
            assert!(text.ends_with(|c: char| c.is_ascii_alphanumeric()));
            assert!(text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'), "{text}");
            assert_eq!(Name::of(&provider(1), text).unwrap().vm(), vm);
            assert_eq!(Name::of(&provider(2), text), None, "another provider's");
        }
    }

    #[test]
    fn foreign_instances_are_not_ours() {
        for foreign in [
            "primary",
            "vm1",
            "golem",
            "golem-x",
            "golem-----",
            "",
            "golem-aaaaaaaaaa-00000000000000000000000000",
            "GOLEM-aaaaaaaaaa-00000000000000000000000000-12345678",
            "golem-aaaaaaaaaa-0000000000000000000000000!-12345678",
            "golem-aaaaaaaaaa-00000000000000000000000000-12345678-9",
        ] {
            assert!(foreign.parse::<Name>().is_err(), "{foreign}");
        }
    }
}
