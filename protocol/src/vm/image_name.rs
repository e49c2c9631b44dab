//! The names that images go by on every provider.

/// Other names for the images that providers build themselves.
const ALIASES: &[(&str, &[&str])] = &[
    ("debian-12", &["debian", "debian12", "debian:12", "bookworm", "12"]),
    (
        "ubuntu-24.04",
        &["ubuntu", "ubuntu24.04", "ubuntu:24.04", "noble", "24.04", "lts", "default"],
    ),
];

/// The name that stands for `name`: itself in small letters, unless it is another name of an image that providers
/// build themselves.
#[must_use]
pub fn canonical_image(name: &str) -> String {
    let lower = name.trim().to_ascii_lowercase();
    ALIASES
        .iter()
        .find(|(_, aliases)| aliases.contains(&lower.as_str()))
        .map_or(lower, |(canonical, _)| (*canonical).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_names_lead_to_the_same_image() {
        for alias in ["24.04", "noble", "Ubuntu", "ubuntu-24.04", "ubuntu:24.04"] {
            assert_eq!(canonical_image(alias), "ubuntu-24.04");
        }
        assert_eq!(canonical_image("bookworm"), "debian-12");
        assert_eq!(canonical_image("mine"), "mine");
    }
}
