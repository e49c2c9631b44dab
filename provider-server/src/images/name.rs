//! What images are called.

use std::fmt;
use std::str::FromStr;

pub use golem_vm_protocol::vm::canonical_image as canonical;

/// A text that can't be an image's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' can't be an image's name: 1 to 64 of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit"
)]
pub struct ImageNameError(String);

/// An image's name: 1 to 64 of a-z, 0-9, `.`, `_`, `-`, beginning with a letter or digit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageName(String);

impl ImageName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A name for an image that is fetched as `reference`: its last part, with its tag.
    ///
    /// # Errors
    /// [`ImageNameError`] when no name follows from it.
    pub fn from_reference(reference: &str) -> Result<Self, ImageNameError> {
        let without_digest = reference.split('@').next().unwrap_or(reference);
        let last = without_digest.rsplit('/').next().unwrap_or(without_digest);
        canonical(last).replace(':', "-").parse()
    }
}

impl FromStr for ImageName {
    type Err = ImageNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let legal =
            |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-');
        let good = (1..=64).contains(&text.len())
            && text.chars().all(legal)
            && text.starts_with(|c: char| c.is_ascii_alphanumeric());
        if good {
            Ok(Self(text.to_owned()))
        } else {
            Err(ImageNameError(golem_vm_protocol::text::printable(text, 80)))
        }
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_reference_gives_a_name() {
        let name = |text| ImageName::from_reference(text).unwrap().to_string();
        assert_eq!(name("registry.example:5000/team/web:1.2"), "web-1.2");
        assert_eq!(name("debian:12"), "debian-12");
        assert_eq!(name("a/b@sha256:00"), "b");
        assert!(ImageName::from_reference("a/").is_err());
        assert!("../x".parse::<ImageName>().is_err());
    }
}
