//! Words on the wire of which there may be more one day.

/// An enum whose values are words, with one more value for those of a newer other side.
macro_rules! words {
    ($(#[$outer:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$outer])*
        #[derive(
            Debug,
            Clone,
            Copy,
            PartialEq,
            Eq,
            PartialOrd,
            Ord,
            Hash,
            serde::Serialize,
            serde::Deserialize,
        )]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$doc])* #[serde(rename = $text)] $variant,)*
            /// A word that this version does not know: the other side is newer.
            #[serde(other, rename = "unknown")]
            Unknown,
        }

        impl $name {
            /// Every word of this version.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The word on the wire.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* Self::Unknown => "unknown" }
            }

            /// The value of a word; [`Self::Unknown`] for one that is not known.
            #[must_use]
            pub fn from_word(word: &str) -> Self {
                Self::ALL.iter().copied().find(|known| known.as_str() == word).unwrap_or(Self::Unknown)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

pub(super) use words;
