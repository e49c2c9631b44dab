//! Releases of Multipass, and what each can do.

use std::fmt;
use std::str::FromStr;

/// The leading numbers of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version {
    major: u32,
    minor: u32,
    patch: u32,
}

impl Version {
    /// The oldest one that is used: the first whose limits can be read and changed (`multipass get local.NAME.cpus`).
    pub(super) const OLDEST: Self = Self::new(1, 10);

    /// The newest one that was reckoned with.
    pub(super) const NEWEST: Self = Self::new(1, 17);

    const fn new(major: u32, minor: u32) -> Self {
        Self { major, minor, patch: 0 }
    }

    /// Whether an instance can be switched off (`stop --force`), and one that runs be removed at once.
    pub(super) fn can_force(self) -> bool {
        self >= Self::new(1, 14)
    }

    /// Whether it makes snapshots, of stopped instances.
    pub(super) fn has_snapshots(self) -> bool {
        self >= Self::new(1, 13)
    }

    /// Whether it clones stopped instances.
    pub(super) fn can_clone(self) -> bool {
        self >= Self::new(1, 15)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl FromStr for Version {
    type Err = String;

    /// `1.16.3`, `1.13.1+mac`, `1.15.0-dev.2330+ge878c87e`: what comes behind the numbers does not count.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || format!("'{}' is no version", golem_vm_protocol::text::printable(text, 40));
        let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
        let mut numbers = text[..end].split('.').map(str::parse);
        let mut next = || numbers.next().and_then(Result::ok);
        let (major, minor) = (next().ok_or_else(wrong)?, next().ok_or_else(wrong)?);
        Ok(Self { major, minor, patch: next().unwrap_or(0) })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_the_numbers_count() {
        for (text, known) in [
            ("1.16.3", "1.16.3"),
            ("1.13.1+mac", "1.13.1"),
            ("1.15.0-dev.2330+ge878c87e", "1.15.0"),
            ("1.17", "1.17.0"),
        ] {
            assert_eq!(text.parse::<Version>().unwrap().to_string(), known);
        }
        for bad in ["", "x", "1", "1.x", ".1"] {
            assert!(bad.parse::<Version>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_a_release_can_do_begins_with_one() {
        let of = |text: &str| {
            let version: Version = text.parse().unwrap();
            (
                version >= Version::OLDEST,
                version.has_snapshots(),
                version.can_force(),
                version.can_clone(),
            )
        };
        assert_eq!(of("1.9.2"), (false, false, false, false));
        assert_eq!(of("1.10.1"), (true, false, false, false));
        assert_eq!(of("1.12.2"), (true, false, false, false));
        assert_eq!(of("1.13.1"), (true, true, false, false));
        assert_eq!(of("1.14.1"), (true, true, true, false));
        assert_eq!(of("1.15.0-dev.2+g1"), (true, true, true, true));
        assert_eq!(of("1.17.0"), (true, true, true, true));
        assert_eq!(of("2.0.0"), (true, true, true, true));
    }
}
