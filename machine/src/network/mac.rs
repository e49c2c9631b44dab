//! Addresses of network cards.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A hardware address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || {
            let shown: String = text.chars().take(40).collect();
            format!("{shown:?} is not a hardware address; one is 02:42:ac:11:00:0f")
        };
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2).ok_or_else(wrong)?;
            let digits = part.bytes().all(|digit| digit.is_ascii_hexdigit());
            *byte = u8::from_str_radix(part, 16).ok().filter(|_| digits).ok_or_else(wrong)?;
        }
        if parts.next().is_some() { Err(wrong()) } else { Ok(Self(bytes)) }
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

impl TryFrom<String> for Mac {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn hardware_addresses_are_read_and_written() {
        let text = "02:42:ac:11:00:0f";
        assert_eq!(text.parse::<Mac>().unwrap().to_string(), text);
        let json = serde_json::to_string(&text.parse::<Mac>().unwrap()).unwrap();
        assert_eq!(json, format!("\"{text}\""));
        assert_eq!(serde_json::from_str::<Mac>(&json).unwrap().to_string(), text);
        for bad in
            ["", "02:42:ac:11:00", "02:42:ac:11:00:0f:01", "02:42:ac:11:00:+f", "2:42:ac:11:00:0f"]
        {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }
}
