//! A requestor's own cloud-init: read before anything is made, and merged with what every machine has.
//!
//! cloud-init would tell of mistakes in a log inside the guest, or not at all; here they are told at once, with line
//! and column. What a machine lives by (user, keys, host key, no passwords, network, growing) is set by the provider
//! and stays: of the requestor's settings of these some are merged, the others have no effect, and
//! [`UserData::notes`] says which. Everything else is passed on as it was written.
//!
//! The merging is done here and not by cloud-init (by parts of a MIME message and their merge types), because then it
//! is the same for every version of it, and can be looked at.

mod merge;
mod node;
mod read;
#[cfg(test)]
mod tests;

use std::fmt;

pub use node::Node;

/// The longest user data, in bytes.
pub const MAX_BYTES: usize = 32 * 1024;

/// A place in the text: both count from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The column, in characters.
    pub column: usize,
}

/// Why user data is refused. A sentence with its place and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {what}")]
pub struct UserDataError {
    /// Where.
    pub place: Place,
    /// What is wrong there.
    pub what: String,
}

impl UserDataError {
    fn new(place: Place, what: impl Into<String>) -> Self {
        Self { place, what: what.into() }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

/// User data that can be given to a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserData {
    settings: merge::Settings,
    notes: Vec<String>,
}

impl UserData {
    /// Reads a `#cloud-config` or a script that begins with `#!`.
    ///
    /// # Errors
    /// [`UserDataError`]: too long, neither of the two, no YAML, or settings of a kind that cloud-init can't use.
    pub fn parse(text: &str) -> Result<Self, UserDataError> {
        let start = Place { line: 1, column: 1 };
        if text.len() > MAX_BYTES {
            let what = format!(
                "user data of {} bytes: at most {MAX_BYTES} are taken; fetch the rest from a script",
                text.len()
            );
            return Err(UserDataError::new(start, what));
        }
        printable(text)?;
        let first = text.lines().next().unwrap_or_default().trim_end();
        let mut notes = Vec::new();
        let settings = if first.starts_with("#!") {
            if text.contains('\r') {
                let what = "the script has Windows line ends, with which it can't be run: save it with Unix line ends";
                return Err(UserDataError::new(start, what));
            }
            merge::Settings::script(text)
        } else if first == "#cloud-config" {
            merge::Settings::read(read::document(text)?, &mut notes)?
        } else {
            return Err(UserDataError::new(start, kind(first)));
        };
        Ok(Self { settings, notes })
    }

    /// What of it has no effect, and why: one sentence each.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// With what every machine of another maker has, as a cloud-config: its settings are ours, and stay.
    #[must_use]
    pub fn merged_into(&self, ours: serde_json::Value) -> String {
        format!("#cloud-config\n{}\n", self.merged(ours.into()).to_yaml())
    }

    /// With what every machine has.
    pub(super) fn merged(&self, ours: Node) -> Node {
        self.settings.merged(ours)
    }
}

/// What a first line that is not taken stands for.
fn kind(first: &str) -> String {
    let other = [
        ("## template:", "a template"),
        ("#include", "a list of addresses to fetch"),
        ("#cloud-config-archive", "an archive"),
        ("#cloud-boothook", "a boot hook"),
        ("#part-handler", "a part handler"),
        ("Content-Type:", "a MIME message"),
        ("MIME-Version:", "a MIME message"),
    ];
    match other.iter().find(|(beginning, _)| first.starts_with(beginning)) {
        Some((_, kind)) => format!(
            "this is {kind}: only a #cloud-config and a script that begins with #! are taken"
        ),
        None => "the first line has to be #cloud-config, or #! with an interpreter for a script; \
                 cloud-init ignores anything else"
            .to_owned(),
    }
}

/// Control characters are nothing that YAML allows, and no script needs.
fn printable(text: &str) -> Result<(), UserDataError> {
    for (line, content) in text.split('\n').enumerate() {
        for (column, c) in content.chars().enumerate() {
            let last = column + 1 == content.chars().count();
            if (c.is_control() && c != '\t' && !(c == '\r' && last))
                || matches!(c, '\u{feff}' | '\u{fffe}' | '\u{ffff}')
            {
                let place = Place { line: line + 1, column: column + 1 };
                let what =
                    format!("the character U+{:04X} can't be there: remove it", u32::from(c));
                return Err(UserDataError::new(place, what));
            }
        }
    }
    Ok(())
}

/// Reads what somebody could have sent, for the fuzz target.
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing {
    use super::UserData;

    /// Whatever comes: it is refused with a place in the text, or what every machine has is in what comes of it, and
    /// that is read again as the same.
    pub(crate) fn read(bytes: &[u8]) {
        let Ok(text) = std::str::from_utf8(bytes) else { return };
        match UserData::parse(text) {
            Err(error) => {
                assert!(
                    error.place.line >= 1 && error.place.line <= text.lines().count() + 2,
                    "{error}"
                );
                assert!(!error.to_string().contains('\x1b'));
            }
            Ok(user_data) => {
                let ours = serde_json::json!({ "ssh_pwauth": false, "users": [{ "name": "ubuntu" }], "bootcmd": [["true"]] });
                let merged = user_data.merged(ours.into());
                let again = super::read::document(&merged.to_yaml()).map(|node| node.to_yaml());
                assert_eq!(again.as_deref(), Ok(merged.to_yaml().as_str()));
                assert_eq!(merged.get("ssh_pwauth").and_then(super::Node::word), Some("false"));
                let first = merged
                    .get("users")
                    .and_then(|users| users.list()?.first()?.get("name")?.text());
                assert_eq!(first, Some("ubuntu"));
            }
        }
    }
}
