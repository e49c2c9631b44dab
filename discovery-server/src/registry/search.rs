//! What a search asks for: filters, a limit, and where to go on.

use axum::body::Bytes;
use data_encoding::BASE64URL_NOPAD;
use golem_vm_protocol::text::printable;
use golem_vm_protocol::vm::{Isolation, MIN_STORAGE_GB};
use golem_vm_protocol::{FieldError, VmResources};

use super::index::Listed;
use super::offered::{Accel, Kinds, WantedImage};
use super::unsigned::MAX_ID_BYTES;

/// Most entries in one reply, and how many there are without a `limit`.
pub const MAX_LIMIT: usize = 1000;
/// A page ends behind the entry that takes it over this size, in bytes.
pub const MAX_PAGE_BYTES: usize = 2 << 20;
/// What cursors begin with before they are encoded: their version.
const CURSOR_VERSION: u8 = 1;

/// What an entry has to be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// At least so many vCPUs.
    pub cpu: Option<u32>,
    /// At least so many GiB of memory.
    pub memory: Option<u32>,
    /// At least so many GiB of disk.
    pub storage: Option<u32>,
    /// Exactly this country.
    pub country: Option<String>,
    /// Exactly this architecture.
    pub platform: Option<String>,
    /// With an offer of this isolation.
    pub isolation: Option<Isolation>,
    /// With an offer of virtual machines that run on this; of the isolation that is asked for.
    pub accel: Option<Accel>,
    /// With an offer of this image; of the isolation and the accelerator that are asked for.
    pub image: Option<WantedImage>,
    /// For at most so many micro-USD per month, for the size asked for.
    pub max_price: Option<u64>,
}

impl Filter {
    /// Whether `listed` is what is looked for. What is not known of it does not match.
    #[must_use]
    pub fn matches(&self, listed: &Listed) -> bool {
        let at_least = |asked: Option<u32>, there| asked.is_none_or(|asked| there >= asked);
        at_least(self.cpu, listed.resources.cpu)
            && at_least(self.memory, listed.resources.memory)
            && at_least(self.storage, listed.resources.storage)
            && self.matches_an_offer(listed)
            && self.max_price.is_none_or(|max| {
                listed.prices.is_some_and(|prices| prices.per_month(&self.priced_size()) <= max)
            })
            && self.country.as_deref().is_none_or(|country| *listed.country == *country)
            && self.platform.as_deref().is_none_or(|p| listed.platform.as_deref() == Some(p))
    }

    /// Whether one offer has all that is asked of offers.
    fn matches_an_offer(&self, listed: &Listed) -> bool {
        let wanted = Kinds::wanted(self.isolation, self.accel);
        match &self.image {
            Some(image) => image.is_among(&listed.images, wanted),
            None if self.isolation.is_none() && self.accel.is_none() => true,
            None => listed.kinds.meets(wanted),
        }
    }

    /// The size that a price is asked for; the smallest where none is named.
    fn priced_size(&self) -> VmResources {
        VmResources {
            cpu: self.cpu.unwrap_or(1),
            memory: self.memory.unwrap_or(1),
            storage: self.storage.unwrap_or(MIN_STORAGE_GB),
        }
    }
}

/// Where a page ended: the next one begins behind this id. Opaque to clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor(String);

impl Cursor {
    /// The cursor of a page that ended with `id`.
    pub(super) fn after(id: &(impl AsRef<str> + ?Sized)) -> Self {
        Self(id.as_ref().to_owned())
    }

    pub(super) fn id(&self) -> &str {
        &self.0
    }

    /// The text on the wire.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut bytes = vec![CURSOR_VERSION];
        bytes.extend_from_slice(self.0.as_bytes());
        BASE64URL_NOPAD.encode(&bytes)
    }

    fn decode(text: &str) -> Option<Self> {
        if text.len() > (MAX_ID_BYTES + 1).div_ceil(3) * 4 {
            return None;
        }
        let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).ok()?;
        let (version, id) = bytes.split_first()?;
        let id = std::str::from_utf8(id).ok().filter(|id| !id.is_empty())?;
        (*version == CURSOR_VERSION).then(|| Self(id.to_owned()))
    }
}

/// A search.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Search {
    /// What an entry has to be.
    pub filter: Filter,
    /// Most entries in the page, 1 to [`MAX_LIMIT`].
    pub limit: usize,
    /// Where to go on.
    pub after: Option<Cursor>,
}

impl Default for Search {
    fn default() -> Self {
        Self { filter: Filter::default(), limit: MAX_LIMIT, after: None }
    }
}

/// One page of results.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// A JSON list.
    pub body: Bytes,
    /// How many entries it has.
    pub count: usize,
    /// Where the next page begins, if there is one.
    pub next: Option<Cursor>,
}

/// Why a search can't be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SearchError {
    /// A minimum below 1.
    #[error("Resource requirements must be >= 1: {name} is {value}")]
    BelowOne {
        /// Which.
        name: String,
        /// What it said, made printable.
        value: String,
    },
    /// Parameters that can't be read.
    #[error("{} parameters can't be read", .0.len())]
    Unreadable(Vec<FieldError>),
}

impl Search {
    /// Reads a query. Names that are not ours are ignored, as in the original; of a name that is
    /// there twice the last one counts.
    ///
    /// # Errors
    /// [`SearchError`], the second one with every parameter that can't be read.
    pub fn parse<'q>(
        query: impl IntoIterator<Item = (&'q str, &'q str)>,
    ) -> Result<Self, SearchError> {
        let mut search = Self::default();
        let mut errors = Vec::new();
        for (name, text) in query {
            match search.set(name, text) {
                Ok(()) => {}
                Err(Refused::Unreadable(reason)) => {
                    errors.push(FieldError::new(format!("?{name}"), reason));
                }
                Err(Refused::BelowOne) => {
                    let value = printable(text, 40);
                    return Err(SearchError::BelowOne { name: name.to_owned(), value });
                }
            }
        }
        if errors.is_empty() { Ok(search) } else { Err(SearchError::Unreadable(errors)) }
    }

    fn set(&mut self, name: &str, text: &str) -> Result<(), Refused> {
        let filter = &mut self.filter;
        match name {
            "cpu" => filter.cpu = Some(size(text)?),
            "memory" => filter.memory = Some(size(text)?),
            "storage" => filter.storage = Some(size(text)?),
            "country" => filter.country = Some(text.to_owned()),
            "platform" => filter.platform = Some(text.to_owned()),
            "isolation" => filter.isolation = Some(text.parse().map_err(Refused::Unreadable)?),
            "accel" => filter.accel = Some(text.parse().map_err(Refused::Unreadable)?),
            "image" => filter.image = Some(WantedImage::parse(text)),
            "max_usd_per_month" => filter.max_price = Some(micro_usd(text)?),
            "limit" => self.limit = limit(text)?,
            "cursor" => self.after = Some(Cursor::decode(text).ok_or_else(not_a_cursor)?),
            _ => {}
        }
        Ok(())
    }
}

/// Why one parameter is not taken.
enum Refused {
    BelowOne,
    Unreadable(String),
}

fn unreadable(reason: impl Into<String>) -> Refused {
    Refused::Unreadable(reason.into())
}

fn not_a_cursor() -> Refused {
    unreadable("not a cursor: pass the value of the header golem-next-cursor unchanged")
}

/// A minimum. Numbers beyond `u32` are read as the largest one: nobody has that much.
fn size(text: &str) -> Result<u32, Refused> {
    let (negative, digits) =
        integer(text).ok_or_else(|| unreadable("value is not a valid integer"))?;
    match if negative { 0 } else { digits.parse().unwrap_or(u32::MAX) } {
        0 => Err(Refused::BelowOne),
        number => Ok(number),
    }
}

/// Sign and digits of an integer.
fn integer(text: &str) -> Option<(bool, &str)> {
    let text = text.trim();
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let good = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    good.then_some((negative, digits))
}

fn limit(text: &str) -> Result<usize, Refused> {
    match integer(text) {
        Some((false, digits)) => match digits.parse().unwrap_or(usize::MAX) {
            0 => Err(unreadable(format!("has to be 1 to {MAX_LIMIT}"))),
            limit => Ok(limit.min(MAX_LIMIT)),
        },
        _ => Err(unreadable(format!("has to be a number from 1 to {MAX_LIMIT}"))),
    }
}

fn micro_usd(text: &str) -> Result<u64, Refused> {
    let usd: f64 = text.trim().parse().map_err(|_| unreadable("value is not a number"))?;
    if !usd.is_finite() || usd < 0.0 {
        return Err(unreadable("has to be a number of USD, 0 or more"));
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "not negative; what is too large saturates"
    )]
    Ok((usd * 1e6).round() as u64)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn one(name: &str, text: &str) -> Result<Search, SearchError> {
        Search::parse([(name, text)])
    }

    #[test]
    fn every_filter_is_read() {
        let search = Search::parse([
            ("cpu", "2"),
            ("memory", " 4 "),
            ("storage", "99999999999"),
            ("country", "SE"),
            ("platform", "x86_64"),
            ("isolation", "vm"),
            ("accel", "kvm"),
            ("image", "debian-12@sha256:00"),
            ("max_usd_per_month", "12.5"),
            ("limit", "5000"),
            ("of_tomorrow", "x"),
            ("cpu", "3"),
        ])
        .unwrap();
        let filter = Filter {
            cpu: Some(3),
            memory: Some(4),
            storage: Some(u32::MAX),
            country: Some("SE".into()),
            platform: Some("x86_64".into()),
            isolation: Some(Isolation::Vm),
            accel: Some(Accel::Kvm),
            image: Some(WantedImage::parse("debian-12@sha256:00")),
            max_price: Some(12_500_000),
        };
        assert_eq!(search, Search { filter, limit: MAX_LIMIT, after: None });
    }

    #[test]
    fn what_can_not_be_read_is_told_as_the_original_does() {
        for low in ["0", "-1", "-0", "000"] {
            assert!(matches!(one("cpu", low), Err(SearchError::BelowOne { .. })), "{low}");
        }
        for (name, text) in [
            ("cpu", "abc"),
            ("memory", ""),
            ("storage", "1.5"),
            ("cpu", "1e3"),
            ("isolation", "VM"),
            ("accel", "hvf"),
            ("max_usd_per_month", "nan"),
            ("max_usd_per_month", "-1"),
            ("limit", "0"),
            ("limit", "-3"),
            ("cursor", ""),
            ("cursor", "!"),
            ("cursor", "AQ"),
            ("cursor", "Ant0"),
        ] {
            let Err(SearchError::Unreadable(errors)) = one(name, text) else {
                panic!("{name}={text} was read");
            };
            assert_eq!(errors[0].pointer, format!("?{name}"));
        }
    }

    #[test]
    fn a_cursor_reads_back_and_is_bounded() {
        let cursor = Cursor::after("0x1D9B");
        assert_eq!(one("cursor", &cursor.encode()).unwrap().after, Some(cursor));
        assert!(one("cursor", &"A".repeat(10_000)).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_query_panics(name in "(cpu|limit|cursor|max_usd_per_month|isolation|accel|image)", text in ".{0,60}") {
            let _ = one(&name, &text);
        }
    }
}
