//! What a machine is called.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The name of a machine: 1 to 64 of `a-z`, `0-9`, `_`, `-`, beginning with a letter. It is a directory's name, a
/// unit's and a group's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MachineName(String);

impl MachineName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A text that is no name of a machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a machine's name is 1 to 64 of a-z, 0-9, '_' and '-', and begins with a letter")]
pub struct MachineNameError;

impl FromStr for MachineName {
    type Err = MachineNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let legal = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '_' | '-');
        let good = text.len() <= 64
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && text.chars().all(legal);
        if good { Ok(Self(text.to_owned())) } else { Err(MachineNameError) }
    }
}

impl TryFrom<String> for MachineName {
    type Error = MachineNameError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<MachineName> for String {
    fn from(name: MachineName) -> Self {
        name.0
    }
}

impl fmt::Display for MachineName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_harmless_as_a_directory() {
        for good in ["a", "golem-vm_0123", &"x".repeat(64)] {
            assert_eq!(good.parse::<MachineName>().map(String::from).as_deref(), Ok(good));
        }
        for bad in ["", ".", "..", "-a", "_a", "A", "a/b", "a.b", "a,b", "1", &"x".repeat(65)] {
            assert!(bad.parse::<MachineName>().is_err(), "{bad}");
        }
    }
}
