//! The forms in which the real one speaks.

use serde_json::{Value, json};

use crate::settings::Settings;
use crate::world::{Instance, State};

/// What it moves a terminal's cursor with.
const CLEAR: &str = "\u{1b}[2K\u{1b}[0A\u{1b}[0E";

/// What a spinner leaves on standard output.
pub(crate) fn spin(text: &str) {
    print!("{CLEAR}{text}  \u{8}/\u{8}-\u{8}\\\u{8}|\u{8} {CLEAR}");
}

/// What the log of an offline daemon adds to whatever is asked.
pub(crate) fn noise() {
    eprintln!(
        "[2026-11-21T02:00:14.626] [error] [url downloader] Failed to get https://codeload.github.com/x: Error opening https://codeload.github.com/x"
    );
}

/// `list`.
pub(crate) fn list(
    settings: &Settings,
    instances: &[(Instance, State)],
    addresses: bool,
) -> String {
    let all: Vec<Value> = instances
        .iter()
        .map(|(instance, state)| {
            let mut one = json!({
                "name": instance.name,
                "state": state.word(),
                "ipv4": ipv4(settings, instance, *state, addresses),
                "release": if settings.is_at_least(11) { "Not Available" } else { "" },
            });
            if settings.is_at_least(17) {
                one["zone"] = json!({ "name": "zone1", "available": true });
            }
            one
        })
        .collect();
    pretty(&json!({ "list": all }))
}

fn ipv4(settings: &Settings, instance: &Instance, state: State, asked: bool) -> Vec<String> {
    match state {
        // Bridges inside the guest come behind.
        State::Running | State::DelayedShutdown if asked => {
            vec![instance.address.clone(), "172.17.0.1".to_owned()]
        }
        State::Running if !settings.is_at_least(17) && !asked => Vec::new(),
        _ => Vec::new(),
    }
}

/// `info NAME`.
pub(crate) fn info(
    settings: &Settings,
    instance: &Instance,
    state: State,
    inside: bool,
    snapshots: bool,
) -> String {
    let is_up = state == State::Running && inside;
    let mut one = json!({
        "state": state.word(),
        "ipv4": ipv4(settings, instance, state, inside),
        "load": if is_up { json!([1.4, 2, 0.97]) } else { json!([]) },
        "memory": if is_up { json!({ "total": instance.memory / 100 * 94, "used": 56_754_176 }) } else { json!({}) },
        "disks": { "sda1": if is_up {
            json!({ "total": instance.disk.to_string(), "used": "528863232" })
        } else {
            json!({})
        } },
        "release": if is_up { "Debian GNU/Linux 12 (bookworm)" } else { "" },
        "image_release": "",
        "image_hash": "918533aeda2bf5a5965618568b2ba529ac5d56c2b3db048b8343569ff0508bb3",
        "mounts": {},
    });
    if settings.is_at_least(11) {
        one["cpu_count"] = json!(if is_up { instance.cpus.to_string() } else { String::new() });
    }
    if settings.is_at_least(13) {
        one["snapshot_count"] = json!(instance.snapshots.len().to_string());
    }
    if settings.is_at_least(17) {
        one["zone"] = json!({ "name": "zone1", "available": true });
    }
    if snapshots {
        let all: serde_json::Map<String, Value> = instance
            .snapshots
            .iter()
            .map(|(name, snapshot)| {
                let about = json!({
                    "children": [], "comment": "", "cpu_count": snapshot.cpus.to_string(),
                    "created": "Sat Nov 21 01:51:47 2026 UTC", "disk_space": size(snapshot.disk),
                    "memory_size": size(snapshot.memory), "mounts": {}, "parent": "", "size": "",
                });
                (name.clone(), about)
            })
            .collect();
        one = json!({ "snapshots": all });
    }
    pretty(&json!({ "errors": [], "info": { instance.name.as_str(): one } }))
}

/// As `get local.NAME.memory` says it.
pub(crate) fn size(bytes: u64) -> String {
    const MIB: u64 = 1 << 20;
    if bytes >= 1024 * MIB {
        format!("{}.{}GiB", bytes / (1024 * MIB), bytes % (1024 * MIB) * 10 / (1024 * MIB))
    } else {
        format!("{}.0MiB", bytes / MIB)
    }
}

/// With four blanks, and every bracket on a line of its own.
pub(crate) fn pretty(value: &Value) -> String {
    let mut out = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
    serde::Serialize::serialize(value, &mut serializer).unwrap();
    format!("{}\n", String::from_utf8(out).unwrap())
}
