//! Sets of ports, written compactly: `7466,50800-50899`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest text form in bytes, so that a signed document with one stays at a few hundred.
pub const MAX_TEXT: usize = 512;

/// A set of TCP ports (1 to 65535). Its text form is unique: rising ranges that neither touch nor
/// overlap, separated by commas, `first-last` for two ports and more, at most [`MAX_TEXT`] bytes.
///
/// ```
/// use golem_vm_protocol::port_ranges::PortRanges;
///
/// let ports = PortRanges::fitting([7466, 50801, 50800, 50802]);
/// assert_eq!(ports.to_string(), "7466,50800-50802");
/// assert_eq!("7466,50800-50802".parse(), Ok(ports));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PortRanges {
    /// First and last of each, rising, with a gap between them.
    ranges: Vec<(u16, u16)>,
}

/// Why a text is no set of ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "ports are rising numbers and ranges that do not touch, such as 7466,50800-50899, in at most {MAX_TEXT} bytes"
)]
pub struct PortRangesError;

impl PortRanges {
    /// The given ports; port 0 is left out. If their text would be too long, as many as fit, those
    /// that are named first before those that are named later.
    #[must_use]
    pub fn fitting(ports: impl IntoIterator<Item = u16>) -> Self {
        let wanted: Vec<u16> = ports.into_iter().filter(|port| *port != 0).collect();
        let mut count = wanted.len();
        loop {
            let set = Self::of(wanted.get(..count).unwrap_or_default());
            let length = set.to_string().len();
            if length <= MAX_TEXT {
                return set;
            }
            // No port takes more than six bytes, so at least so many have to go.
            count = count.saturating_sub((length - MAX_TEXT).div_ceil(12).max(1));
        }
    }

    fn of(ports: &[u16]) -> Self {
        let mut sorted = ports.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        let mut ranges: Vec<(u16, u16)> = Vec::new();
        for port in sorted {
            match ranges.last_mut() {
                Some((_, last)) if last.checked_add(1) == Some(port) => *last = port,
                _ => ranges.push((port, port)),
            }
        }
        Self { ranges }
    }

    /// Whether `port` is among them.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        self.ranges.iter().any(|(first, last)| (*first..=*last).contains(&port))
    }

    /// How many ports there are.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.ranges.iter().map(|(first, last)| u32::from(last - first) + 1).sum()
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The ports, in rising order.
    pub fn iter(&self) -> impl Iterator<Item = u16> {
        self.ranges.iter().flat_map(|(first, last)| *first..=*last)
    }
}

impl fmt::Display for PortRanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (first, last)) in self.ranges.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{first}-{last}")?;
            }
        }
        Ok(())
    }
}

impl FromStr for PortRanges {
    type Err = PortRangesError;

    fn from_str(text: &str) -> Result<Self, PortRangesError> {
        if text.len() > MAX_TEXT {
            return Err(PortRangesError);
        }
        let number = |text: &str| text.parse::<u16>().map_err(|_| PortRangesError);
        let mut ranges = Vec::new();
        for part in text.split(',').filter(|_| !text.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            ranges.push((number(first)?, number(last)?));
        }
        let set = Self { ranges };
        let rising = set.ranges.windows(2).all(|pair| match pair {
            [(_, last), (first, _)] => u32::from(*last) + 1 < u32::from(*first),
            _ => true,
        });
        let sound = set.ranges.iter().all(|(first, last)| *first != 0 && first <= last);
        // One text per set: no signs, no leading zeros, no `5-5`.
        if rising && sound && set.to_string() == text { Ok(set) } else { Err(PortRangesError) }
    }
}

impl Serialize for PortRanges {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PortRanges {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_set_has_one_text() {
        assert_eq!(PortRanges::fitting([]).to_string(), "");
        assert_eq!("".parse(), Ok(PortRanges::default()));
        assert_eq!(PortRanges::fitting([0, 65535, 65534, 1, 1]).to_string(), "1,65534-65535");
        let all = PortRanges::fitting(1..=65535);
        assert_eq!((all.to_string().as_str(), all.count()), ("1-65535", 65535));
        for bad in [
            "0", "1,1", "2,1", "1,2", "1-2,3", "5-5", "5-4", "+5", "05", " 5", "5,", ",5", "65536",
            "1-", "-1", "1-2-3",
        ] {
            assert_eq!(bad.parse::<PortRanges>(), Err(PortRangesError), "{bad}");
        }
        assert!("1,".repeat(300).parse::<PortRanges>().is_err());
    }

    #[test]
    fn what_does_not_fit_leaves_out_what_was_named_last() {
        let scattered = std::iter::once(7466).chain((50_800..60_000).step_by(2));
        let set = PortRanges::fitting(scattered);
        assert!(set.contains(7466) && set.contains(50_800) && !set.contains(59_998));
        let length = set.to_string().len();
        assert!((MAX_TEXT - 60..=MAX_TEXT).contains(&length), "{length}");
        assert_eq!(set.to_string().parse(), Ok(set));
    }

    proptest! {
        #[test]
        fn the_text_reads_back(ports in proptest::collection::btree_set(1_u16.., 0..200)) {
            let set = PortRanges::fitting(ports.iter().copied());
            prop_assert_eq!(set.to_string().parse(), Ok(set.clone()));
            prop_assert_eq!(set.count() as usize, set.iter().count());
            prop_assert!(set.iter().all(|port| ports.contains(&port) && set.contains(port)));
            if ports.len() <= 85 {
                prop_assert_eq!(set.count() as usize, ports.len());
            }
        }

        #[test]
        fn no_text_reads_as_anything_but_itself(text in "[0-9,-]{0,40}") {
            if let Ok(set) = text.parse::<PortRanges>() {
                prop_assert_eq!(set.to_string(), text);
            }
        }
    }
}
