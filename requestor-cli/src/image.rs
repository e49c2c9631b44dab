//! The image that a VM is to be made from, as a person names it: `debian-12`, or `debian-12@sha256:…` for exactly
//! those bytes.

use std::fmt;
use std::str::FromStr;

use golem_vm_protocol::advertisement::{Offer, OfferedImage};
use golem_vm_protocol::document::DocumentDigest;
use golem_vm_protocol::text::printable;
use golem_vm_protocol::vm::canonical_image;

/// An image that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageWish {
    /// As it was written.
    text: String,
    /// Its name, as providers advertise it.
    name: String,
    /// Its digest, where one is demanded.
    digest: Option<String>,
}

impl ImageWish {
    /// Which of the images of an offer it is.
    #[must_use]
    pub fn among<'a>(&self, offer: &'a Offer) -> Option<&'a OfferedImage> {
        offer.images.iter().find(|image| self.is(&image.name, &image.digest))
    }

    /// Whether an image of that name and digest is the one that is wanted.
    #[must_use]
    pub fn is(&self, name: &str, digest: &str) -> bool {
        canonical_image(name) == self.name && self.digest.as_ref().is_none_or(|own| own == digest)
    }

    /// Why none of these images of a provider is the wanted one, to stand behind its name; safe to print.
    pub(crate) fn missing<'a>(&self, images: impl Iterator<Item = &'a OfferedImage>) -> String {
        let mut names: Vec<String> = Vec::new();
        for image in images {
            if canonical_image(&image.name) == self.name {
                let digest = printable(&image.digest, 80);
                return format!("has the image {} as {digest}", self.name);
            }
            let name = printable(&image.name, 60);
            if !names.contains(&name) {
                names.push(name);
            }
        }
        if names.is_empty() {
            return format!("has no image {}", self.name);
        }
        format!("has no image {}; it has {}", self.name, names.join(", "))
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for ImageWish {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (text, None),
        };
        if name.trim().is_empty() {
            return Err("it names no image".to_owned());
        }
        let digest = digest.map(|digest| match digest.parse::<DocumentDigest>() {
            Ok(digest) => Ok(digest.to_string()),
            Err(_) => Err("a digest is sha256: and 64 characters of 0-9 and a-f".to_owned()),
        });
        let digest = digest.transpose()?;
        Ok(Self { text: text.to_owned(), name: canonical_image(name), digest })
    }
}

impl fmt::Display for ImageWish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_image_is_meant_by_its_name_and_its_digest() {
        let digest = DocumentDigest::of(b"disk").to_string();
        let wish = |text: &str| text.parse::<ImageWish>().unwrap();
        assert!(wish("bookworm").is("debian-12", "sha256:any"));
        assert!(!wish("bookworm").is("ubuntu-24.04", "sha256:any"));
        let exactly = wish(&format!("debian-12@{digest}"));
        assert!(exactly.is("debian-12", &digest) && !exactly.is("debian-12", "sha256:other"));
        assert_eq!(exactly.to_string(), format!("debian-12@{digest}"));
        for bad in ["", "@", "debian-12@", "debian-12@sha256:12", &format!("@{digest}")] {
            assert!(bad.parse::<ImageWish>().is_err(), "{bad}");
        }
    }
}
