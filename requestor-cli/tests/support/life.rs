//! What a provider does with VMs beside starting and stopping them.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use golem_vm_protocol::signature::{RequestSignature, sign_stream};
use golem_vm_protocol::vm::{
    Ability, Bytes, CloneVm, ConsoleInput, ConsoleLog, ConsoleOutput, ConsoleTaken, CreateSnapshot,
    ResizeVm, VmSnapshot, VmSnapshots, VmStatus, console_frame,
};
use golem_vm_protocol::{ErrorCode, KeyPair};
use http::Method;
use serde_json::json;

use super::http::{Answer, Received};
use super::provider::{Asked, Said, State, admitted, now, problem};

/// The reply, and whether it is to get lost; `None` for what has nothing to do with this.
pub fn answered(
    state: &mut State,
    at: usize,
    request: &Received,
    action: &[&str],
) -> Option<(Said, bool)> {
    let needed = match action {
        ["suspend" | "resume"] => Ability::Suspend,
        ["snapshots", ..] => Ability::Snapshots,
        ["clone"] => Ability::Clone,
        ["resize"] => Ability::Resize,
        ["console", ..] => Ability::Console,
        _ => return None,
    };
    if !state.abilities.contains(&needed) {
        let told = "docker has no such thing for its containers";
        return Some((problem(ErrorCode::NotSupported, told), false));
    }
    if action == ["clone"] {
        return Some(cloned(state, at, request));
    }
    let mut cut = false;
    if action == ["snapshots"] && request.method == Method::POST && state.cut_after_snapshot > 0 {
        state.cut_after_snapshot -= 1;
        cut = true;
    }
    Some((said(state, at, request, action), cut))
}

fn said(state: &mut State, at: usize, request: &Received, action: &[&str]) -> Said {
    let rented = &mut state.vms[at];
    let body = &request.body;
    match (&request.method, action) {
        (&Method::POST, ["suspend"]) => {
            if rented.vm.status == VmStatus::Stopped && !rented.vm.suspended {
                return problem(ErrorCode::StateConflict, "it is stopped");
            }
            (rented.vm.status, rented.vm.suspended) = (VmStatus::Stopped, true);
        }
        (&Method::POST, ["resume"]) => {
            if rented.vm.status == VmStatus::Stopped && !rented.vm.suspended {
                return problem(ErrorCode::StateConflict, "it is not suspended");
            }
            (rented.vm.status, rented.vm.suspended) = (VmStatus::Running, false);
        }
        (&Method::POST, ["snapshots"]) => {
            let name = serde_json::from_slice::<CreateSnapshot>(body).unwrap().validate().unwrap();
            let key = request.headers["idempotency-key"].to_str().unwrap();
            let again = state.log.contains(&format!("snapshot {name} {key}"));
            if !again && rented.snapshots.iter().any(|snapshot| snapshot.name == name) {
                return problem(ErrorCode::SnapshotExists, "it has one of that name");
            }
            if !again {
                state.log.push(format!("snapshot {name} {key}"));
                rented.snapshots.push(VmSnapshot {
                    name,
                    created_at: now(),
                    with_memory: rented.vm.status == VmStatus::Running,
                    resources: rented.vm.resources,
                    bytes: Some(700 << 20),
                });
            }
            return snapshots(state, at);
        }
        (&Method::GET, ["snapshots"]) => return snapshots(state, at),
        (method, ["snapshots", name, rest @ ..]) => {
            let there = rented.snapshots.iter().position(|s| s.name.as_str() == *name);
            let Some(place) = there else {
                return problem(ErrorCode::SnapshotNotFound, "it has none of that name");
            };
            match (method, rest) {
                (&Method::DELETE, []) => drop(rented.snapshots.remove(place)),
                (&Method::POST, ["restore"]) => {
                    if rented.snapshots[place].with_memory {
                        rented.vm.status = VmStatus::Running;
                    }
                }
                _ => return problem(ErrorCode::NotFound, "Not Found"),
            }
        }
        (&Method::POST, ["resize"]) => {
            let wanted = serde_json::from_slice::<ResizeVm>(body).unwrap().validate().unwrap();
            if rented.vm.suspended {
                return problem(ErrorCode::StateConflict, "it is suspended");
            }
            if wanted.cpu > state.resources.0 {
                return problem(ErrorCode::InsufficientCapacity, "there are not so many CPUs");
            }
            rented.vm.resources = wanted;
        }
        (&Method::GET, ["console"]) => {
            let data = Bytes(state.console.clone());
            let log = ConsoleLog { vm_id: rented.vm.id.clone(), data, truncated: true };
            return (200, json!(log));
        }
        (&Method::POST, ["console", "input"]) => {
            let input: ConsoleInput = serde_json::from_slice(body).unwrap();
            input.validate().unwrap();
            state.typed.extend(&input.data.0);
            return (200, json!(ConsoleTaken { number: input.number }));
        }
        _ => return problem(ErrorCode::NotFound, "Not Found"),
    }
    (200, json!(rented.vm))
}

fn snapshots(state: &State, at: usize) -> Said {
    let rented = &state.vms[at];
    let (vm_id, snapshots) = (rented.vm.id.clone(), rented.snapshots.clone());
    (200, json!(VmSnapshots { vm_id, snapshots }))
}

fn cloned(state: &mut State, at: usize, request: &Received) -> (Said, bool) {
    let source = &state.vms[at];
    let valid = serde_json::from_slice::<CloneVm>(&request.body).unwrap().validate().unwrap();
    if source.vm.suspended {
        return (problem(ErrorCode::StateConflict, "it is suspended"), false);
    }
    let ssh_keys = if valid.ssh_keys.is_empty() { source.ssh_keys.clone() } else { valid.ssh_keys };
    let asked = Asked {
        name: valid.name,
        resources: source.vm.resources,
        ssh_keys,
        lease: valid.lease,
        sequence: Some(state.sequence),
        cloud_init: None,
    };
    let owner = source.owner;
    admitted(state, owner, request, asked)
}

/// The stream of a console, if the request is for one: it echoes what is typed, with a carriage return before each
/// line feed, and ends when a line says `exit`.
pub fn console(
    state: &State,
    shared: &Arc<Mutex<State>>,
    key: &KeyPair,
    request: &Received,
) -> Option<Answer> {
    let path = request.target.split('?').next().unwrap();
    let name = path.strip_prefix("/api/v1/vms/")?.strip_suffix("/console/stream")?;
    let found = state.vms.iter().any(|r| r.vm.id == name || r.vm.name.as_str() == name);
    if !found || !state.abilities.contains(&Ability::Console) {
        return None;
    }
    let carried = RequestSignature::carried_by(&request.headers).unwrap();
    let input = request.headers["signature-input"].to_str().unwrap();
    let nonce = input.split("nonce=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let headers = sign_stream(key, &carried, now().unix_seconds())
        .into_iter()
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
        .collect();
    let (send, frames) = tokio::sync::mpsc::unbounded_channel();
    let (key, shared) = (key.clone(), Arc::clone(shared));
    std::thread::spawn(move || {
        let (mut number, mut echoed) = (0, 0);
        let (sender, key) = (&send, &key);
        let mut say = |data: &[u8], ended: Option<&str>| {
            number += 1;
            let piece = ConsoleOutput {
                nonce: nonce.clone(),
                number,
                data: Bytes(data.to_vec()),
                skipped: 0,
                ended: ended.map(str::to_owned),
            };
            sender.send(console_frame(&piece, key).unwrap().into_bytes()).is_ok()
        };
        say(b"\x1b[32mready\x1b[0m\r\n", None);
        loop {
            std::thread::sleep(Duration::from_millis(10));
            let typed = shared.lock().unwrap().typed.clone();
            if typed[echoed..].is_empty() {
                if send.is_closed() {
                    return;
                }
                continue;
            }
            let new = String::from_utf8_lossy(&typed[echoed..]).replace(['\r', '\n'], "\r\n");
            echoed = typed.len();
            let over = String::from_utf8_lossy(&typed).contains("exit");
            say(new.as_bytes(), None);
            if over {
                say(b"bye\r\n", Some("the VM has stopped"));
                return;
            }
        }
    });
    Some(Answer::Stream { headers, frames })
}
