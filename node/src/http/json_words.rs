//! What is wrong with a JSON body, in the words of its reader: which field, and what it has to be.
//! The parser speaks of Rust's types, which nobody outside knows.

use golem_vm_protocol::FieldError;
use golem_vm_protocol::text::printable;

/// Longest text of the caller's own that is repeated, in characters.
const MAX_SHOWN: usize = 60;

/// The wrong field for what the parser `said` about the value at `path`.
pub(super) fn field_error(path: &serde_path_to_error::Path, said: &str) -> FieldError {
    let mut pointer = pointer(path);
    // The place in the text is of no use to somebody who has the pointer.
    let said = said.rsplit_once(" at line ").map_or(said, |(said, _)| said);
    for (beginning, words) in
        [("missing field `", "it is missing"), ("duplicate field `", "it is there twice")]
    {
        if let Some(name) = said.strip_prefix(beginning).and_then(|rest| rest.strip_suffix('`')) {
            pointer.push_str(&format!("/{}", escaped(name)));
            return FieldError::new(pointer, words);
        }
    }
    FieldError::new(pointer, in_words(said))
}

/// RFC 6901.
fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    let mut pointer = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => pointer.push_str(&format!("/{index}")),
            Segment::Map { key } => {
                pointer.push_str(&format!("/{}", escaped(&printable(key, MAX_SHOWN))));
            }
            // Which variant it is does not show in the JSON.
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    pointer
}

fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

fn in_words(said: &str) -> String {
    if let Some((length, expected)) =
        said.strip_prefix("invalid length ").and_then(|rest| rest.split_once(", expected "))
    {
        return format!("has to be {}, and is a list of {length}", wanted(expected));
    }
    let invalid = ["invalid type: ", "invalid value: "];
    if let Some(rest) = invalid.iter().find_map(|beginning| said.strip_prefix(beginning))
        && let Some((found, expected)) = rest.rsplit_once(", expected ")
    {
        return format!("has to be {}, and is {}", wanted(expected), what_it_is(found));
    }
    if let Some(rest) = said.strip_prefix("unknown variant `")
        && let Some((found, known)) = rest.split_once("`, expected ")
    {
        let known = known.strip_prefix("one of ").unwrap_or(known).replace('`', "");
        return format!("has to be one of {known}, and is {}", printable(found, MAX_SHOWN));
    }
    // The words of our own types, such as a key's.
    printable(said, 300)
}

/// What a Rust type is called by everybody else.
fn wanted(expected: &str) -> String {
    let unsigned = |bits: u32| format!("a whole number from 0 to {}", u128::MAX >> (128 - bits));
    match expected {
        "u8" => unsigned(8),
        "u16" => unsigned(16),
        "u32" => unsigned(32),
        "u64" | "usize" => unsigned(64),
        "i8" | "i16" | "i32" | "i64" => "a whole number".to_owned(),
        "f32" | "f64" => "a number".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a string" | "a borrowed string" | "str" => "a text".to_owned(),
        "a sequence" => "a list".to_owned(),
        "unit" => "null".to_owned(),
        _ if expected.starts_with("struct ") || expected == "a map" => "an object".to_owned(),
        _ if expected.contains("enum") => "one of the known words".to_owned(),
        _ if expected.starts_with("tuple") => "a list".to_owned(),
        other => printable(other, 200),
    }
}

/// What was found, as the parser calls it.
fn what_it_is(found: &str) -> String {
    let value = |kind: &str| {
        let rest = found.strip_prefix(kind)?.strip_prefix([' ', '`', '"'])?;
        Some(printable(rest.trim_matches('`'), MAX_SHOWN))
    };
    match found {
        "map" => "an object".to_owned(),
        "sequence" => "a list".to_owned(),
        "unit value" | "null" | "Option value" => "null".to_owned(),
        _ => value("integer")
            .or_else(|| value("floating point"))
            .or_else(|| value("boolean"))
            .or_else(|| Some(format!("the text {}", value("string")?)))
            .unwrap_or_else(|| printable(found, MAX_SHOWN)),
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "lowercase")]
    #[allow(dead_code, reason = "only parsed")]
    enum Color {
        Red,
        Blue,
    }

    #[derive(Debug, Deserialize)]
    #[allow(dead_code, reason = "only parsed")]
    struct Part {
        size: u16,
        color: Color,
    }

    #[derive(Debug, Deserialize)]
    #[allow(dead_code, reason = "only parsed")]
    struct Whole {
        name: String,
        parts: Vec<Part>,
        price: f64,
        open: bool,
    }

    fn told(json: &str) -> String {
        let reader = &mut serde_json::Deserializer::from_str(json);
        match serde_path_to_error::deserialize::<_, Whole>(reader) {
            Ok(whole) => format!("{whole:?}"),
            Err(error) => {
                let field = field_error(error.path(), &error.inner().to_string());
                format!("{}: {}", field.pointer, field.detail)
            }
        }
    }

    #[test]
    fn the_field_is_named_and_what_it_has_to_be() {
        let part = |part: &str| {
            told(&format!(
                r#"{{"name":"x","parts":[{{"size":1,"color":"red"}},{part}],"price":1,"open":true}}"#
            ))
        };
        for (said, expected) in [
            (told("[]"), ": has to be an object, and is a list of 0"),
            (told("7"), ": has to be an object, and is 7"),
            (told("{}"), "/name: it is missing"),
            (told(r#"{"name":1}"#), "/name: has to be a text, and is 1"),
            (told(r#"{"name":null}"#), "/name: has to be a text, and is null"),
            (told(r#"{"name":"a","name":"b"}"#), "/name: it is there twice"),
            (told(r#"{"parts":{}}"#), "/parts: has to be a list, and is an object"),
            (told(r#"{"price":"5"}"#), "/price: has to be a number, and is the text \"5\""),
            (told(r#"{"open":[]}"#), "/open: has to be true or false, and is a list"),
            (part("{}"), "/parts/1/size: it is missing"),
            (
                part(r#"{"size":-1}"#),
                "/parts/1/size: has to be a whole number from 0 to 65535, and is -1",
            ),
            (
                part(r#"{"size":1.5}"#),
                "/parts/1/size: has to be a whole number from 0 to 65535, and is 1.5",
            ),
            (
                part(r#"{"size":1,"color":"\u001b[31m"}"#),
                "/parts/1/color: has to be one of red or blue, and is \u{fffd}[31m",
            ),
        ] {
            assert!(said.starts_with(expected), "{said}, not {expected}");
            for jargon in ["struct", "u16", "f64", "invalid", "expected", "line", "column", "\x1b"]
            {
                assert!(!said.contains(jargon), "{said}");
            }
        }
    }
}
