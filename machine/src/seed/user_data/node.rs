//! YAML as it was written: what a plain word means is left to who reads it in the end.
//!
//! cloud-init reads YAML 1.1 (`yes` is true, `0644` is 420); most readers today read 1.2. So words are not understood
//! here but passed on, and mean what they would have meant.

use serde_json::Value;

use super::Place;

/// A value and where it stood.
#[derive(Clone, Debug)]
pub struct Node {
    pub(super) place: Place,
    pub(super) content: Content,
}

/// Where it stood does not matter.
impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        self.content == other.content
    }
}

impl Eq for Node {}

/// What a value is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// A word without quotes that may be a number, a truth value and so on. [`is_word`] holds.
    Word(String),
    /// Text, whatever is in it.
    Text(String),
    /// `!!binary`: base64.
    Binary(String),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

/// Whether this can stand anywhere without quotes and is one word.
pub(super) fn is_word(text: &str) -> bool {
    let mut chars = text.chars();
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '+' | '-' | ':');
    match (chars.next(), chars.next()) {
        (Some('~'), None) => true,
        (Some(first), _) if first.is_ascii_alphanumeric() => {
            text.chars().all(inner) && !text.ends_with(':')
        }
        (Some('+' | '-' | '.'), Some(second))
            if second.is_ascii_alphanumeric() || second == '.' =>
        {
            text.chars().skip(1).all(inner)
                && !text.ends_with(':')
                && !text.starts_with("..")
                && text != "-."
        }
        _ => false,
    }
}

impl Node {
    pub(super) fn new(place: Place, content: Content) -> Self {
        Self { place, content }
    }

    /// The value of a key, if this is a mapping that has it.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Self> {
        self.map()?.iter().find(|entry| entry.0 == key).map(|entry| &entry.1)
    }

    /// The items, if this is a list.
    #[must_use]
    pub fn list(&self) -> Option<&[Self]> {
        if let Content::List(items) = &self.content { Some(items) } else { None }
    }

    pub(super) fn map(&self) -> Option<&[(String, Self)]> {
        if let Content::Map(entries) = &self.content { Some(entries) } else { None }
    }

    /// The characters, if this is text or a word.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match &self.content {
            Content::Text(text) | Content::Word(text) => Some(text),
            _ => None,
        }
    }

    /// The word, if this is one without quotes.
    #[must_use]
    pub fn word(&self) -> Option<&str> {
        if let Content::Word(word) = &self.content { Some(word) } else { None }
    }

    /// What YAML 1.1 takes for a truth value.
    pub(super) fn truth(&self) -> Option<bool> {
        match self.text()?.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" => Some(true),
            "false" | "no" | "off" => Some(false),
            _ => None,
        }
    }

    pub(super) fn is_null(&self) -> bool {
        self.word().is_some_and(|word| matches!(word, "~" | "null" | "Null" | "NULL"))
    }

    /// As one line of YAML, in the form of JSON as far as words allow.
    #[must_use]
    pub fn to_yaml(&self) -> String {
        let mut out = String::new();
        self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) {
        match &self.content {
            Content::Word(word) => out.push_str(word),
            Content::Text(text) => quote(text, out),
            Content::Binary(text) => {
                out.push_str("!!binary ");
                quote(text, out);
            }
            Content::List(items) => {
                out.push('[');
                for (number, item) in items.iter().enumerate() {
                    out.push_str(if number == 0 { "" } else { ", " });
                    item.write(out);
                }
                out.push(']');
            }
            Content::Map(entries) => {
                out.push('{');
                for (number, (key, value)) in entries.iter().enumerate() {
                    out.push_str(if number == 0 { "" } else { ", " });
                    quote(key, out);
                    out.push_str(": ");
                    value.write(out);
                }
                out.push('}');
            }
        }
    }
}

/// In double quotes, all but plain ASCII escaped as YAML does: unlike JSON's, its escapes have no surrogates.
fn quote(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            ' '..='~' => out.push(c),
            c if u32::from(c) <= 0xffff => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push_str(&format!("\\U{:08X}", u32::from(c))),
        }
    }
    out.push('"');
}

impl From<Value> for Node {
    fn from(value: Value) -> Self {
        let content = match value {
            Value::Null => Content::Word("null".to_owned()),
            Value::Bool(truth) => Content::Word(truth.to_string()),
            Value::Number(number) => Content::Word(number.to_string()),
            Value::String(text) => Content::Text(text),
            Value::Array(items) => Content::List(items.into_iter().map(Self::from).collect()),
            Value::Object(entries) => Content::Map(
                entries.into_iter().map(|(key, value)| (key, Self::from(value))).collect(),
            ),
        };
        Self::new(Place::default(), content)
    }
}
