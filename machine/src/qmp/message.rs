//! One line of the monitor's, as a value.

use serde::Deserialize;
use serde_json::{Value, json};

/// The longest line that is read, in bytes. The longest of QEMU's own answers that is asked for here is some
/// 30 KiB.
pub(super) const LONGEST_LINE: usize = 1 << 20;

/// Something that happened in the machine.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Its name (`SHUTDOWN`, `GUEST_PANICKED`, `STOP`, …).
    pub name: String,
    /// What belongs to it; `null` where there is nothing.
    pub data: Value,
}

/// What QEMU says.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Message {
    /// The first line of a monitor that has no other client.
    Greeting,
    /// A command was carried out.
    Done { id: Option<u64>, value: Value },
    /// A command was refused.
    Refused { id: Option<u64>, reason: String },
    /// Something happened.
    Event(Event),
}

#[derive(Deserialize)]
struct Wire {
    #[serde(rename = "QMP")]
    greeting: Option<Value>,
    #[serde(rename = "return", default, deserialize_with = "present")]
    done: Option<Value>,
    error: Option<Refusal>,
    event: Option<String>,
    #[serde(default)]
    data: Value,
    #[serde(default)]
    id: Value,
}

#[derive(Deserialize)]
struct Refusal {
    desc: String,
}

/// That a field is there makes a difference, also where its value is `null`.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

impl Message {
    /// What one line says; `None` for what is no message of a monitor's.
    pub(super) fn parse(line: &[u8]) -> Option<Self> {
        let wire: Wire = serde_json::from_slice(line).ok()?;
        let id = wire.id.as_u64();
        match wire {
            Wire { event: Some(name), data, .. } => Some(Self::Event(Event { name, data })),
            Wire { done: Some(value), .. } => Some(Self::Done { id, value }),
            Wire { error: Some(Refusal { desc }), .. } => Some(Self::Refused { id, reason: desc }),
            Wire { greeting: Some(_), .. } => Some(Self::Greeting),
            _ => None,
        }
    }
}

/// A command as a line.
pub(super) fn command(id: u64, name: &str, arguments: &Value) -> Vec<u8> {
    let mut command = json!({ "execute": name, "id": id });
    if !arguments.is_null() {
        command["arguments"] = arguments.clone();
    }
    let mut line = command.to_string().into_bytes();
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_monitor_says_is_understood() {
        // Said by QEMU 7.2.
        let greeting = br#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}}, "capabilities": ["oob"]}}"#;
        assert_eq!(Message::parse(greeting), Some(Message::Greeting));
        assert_eq!(
            Message::parse(br#"{"return": {}, "id": 7}"#),
            Some(Message::Done { id: Some(7), value: json!({}) })
        );
        assert_eq!(
            Message::parse(br#"{"return": null, "id": 7}"#),
            Some(Message::Done { id: Some(7), value: Value::Null })
        );
        assert_eq!(
            Message::parse(br#"{"id": 8, "error": {"class": "GenericError", "desc": "no"}}"#),
            Some(Message::Refused { id: Some(8), reason: "no".to_owned() })
        );
        assert_eq!(
            Message::parse(br#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "SHUTDOWN", "data": {"guest": true}}"#),
            Some(Message::Event(Event { name: "SHUTDOWN".to_owned(), data: json!({"guest": true}) }))
        );
        for other in ["", "{}", "[]", "7", "{\"event\": 7}", "{\"id\": 1}", "{\"return\": "] {
            assert_eq!(Message::parse(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn a_command_is_one_line() {
        assert_eq!(
            command(3, "query-status", &Value::Null),
            b"{\"execute\":\"query-status\",\"id\":3}\n"
        );
        let line = command(4, "x", &json!({"text": "two\nlines"}));
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
    }
}
