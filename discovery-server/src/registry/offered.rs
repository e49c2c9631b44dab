//! What an entry offers, as far as searches ask for it: told offer by offer, so that nothing is found that only
//! two offers together would be.

use golem_vm_protocol::advertisement::Offer;
use golem_vm_protocol::vm::Isolation;

/// What runs a virtual machine's processors, as a search may ask for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accel {
    /// The hardware.
    Kvm,
    /// Emulation: slow.
    Tcg,
}

impl std::str::FromStr for Accel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "kvm" => Ok(Self::Kvm),
            "tcg" => Ok(Self::Tcg),
            _ => Err("accel is 'kvm' or 'tcg'".to_owned()),
        }
    }
}

/// A set of kinds of VM: pairs of isolation and accelerator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Kinds(u16);

/// Bits of one isolation.
const WIDTH: u16 = 3;

impl Kinds {
    /// The kind of one offer. One of an isolation that is not known is listed, and found by no filter.
    #[must_use]
    pub fn of(offer: &Offer) -> Self {
        let isolation = match offer.isolation {
            Isolation::Container => 0,
            Isolation::Vm => WIDTH,
            Isolation::Unknown => return Self::default(),
        };
        let accel = match offer.accel.as_deref() {
            Some("kvm") => 1,
            Some("tcg") => 2,
            _ => 0,
        };
        Self(1 << (isolation + accel))
    }

    /// All kinds of that isolation and that accelerator, where these are asked for.
    #[must_use]
    pub fn wanted(isolation: Option<Isolation>, accel: Option<Accel>) -> Self {
        let of_isolation = match isolation {
            None => 0b111_111,
            Some(Isolation::Container) => 0b000_111,
            Some(Isolation::Vm) => 0b111_000,
            Some(Isolation::Unknown) => 0,
        };
        let of_accel = match accel {
            None => 0b111_111,
            Some(Accel::Kvm) => 0b010_010,
            Some(Accel::Tcg) => 0b100_100,
        };
        Self(of_isolation & of_accel)
    }

    /// These and those.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether any kind is in both.
    #[must_use]
    pub const fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// One image, and in which kinds of VM it is offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedImage {
    name: Box<str>,
    digest: Box<str>,
    kinds: Kinds,
}

impl ListedImage {
    /// All images of these offers.
    #[must_use]
    pub fn all(offers: &[Offer]) -> Box<[Self]> {
        let of_each = offers.iter().flat_map(|offer| {
            let kinds = Kinds::of(offer);
            offer.images.iter().map(move |image| Self {
                name: image.name.as_str().into(),
                digest: image.digest.as_str().into(),
                kinds,
            })
        });
        of_each.collect()
    }
}

/// An image that is asked for: `name`, or `name@digest`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedImage {
    name: String,
    digest: Option<String>,
}

impl WantedImage {
    /// What that text asks for.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        match text.split_once('@') {
            Some((name, digest)) => Self { name: name.to_owned(), digest: Some(digest.to_owned()) },
            None => Self { name: text.to_owned(), digest: None },
        }
    }

    /// Whether it is among `images` in one of these kinds of VM.
    #[must_use]
    pub fn is_among(&self, images: &[ListedImage], kinds: Kinds) -> bool {
        images.iter().any(|image| {
            *image.name == *self.name
                && self.digest.as_deref().is_none_or(|digest| *image.digest == *digest)
                && image.kinds.meets(kinds)
        })
    }
}
