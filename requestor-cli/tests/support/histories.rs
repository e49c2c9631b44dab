//! The histories that a provider keeps, and the streams that it tells them by.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use golem_vm_protocol::document::Envelope;
use golem_vm_protocol::signature::{RequestSignature, sign_stream};
use golem_vm_protocol::vm::{
    Actor, Cause, EventKind, StreamedEvent, Vm, VmEvent, VmEvents, VmStage,
};
use golem_vm_protocol::{ErrorCode, KeyPair};
use serde_json::json;

use super::http::{Answer, Received};
use super::provider::{Said, State, finish, now, problem};

/// What a stream does, when it is not to be what it should.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Right,
    /// There is no such route.
    None,
    /// The head is signed by somebody else.
    OtherHead,
    /// The events are signed by somebody else.
    OtherSigner,
    /// They answer another request.
    OtherRequest,
    /// They are about another VM.
    OtherVm,
    /// One is left out.
    Gap,
    /// It ends after the first event.
    Cut,
    /// It says nothing at all.
    Silent,
    /// It is one line without an end.
    Endless,
}

pub struct Histories {
    pub events: BTreeMap<String, Vec<VmEvent>>,
    /// The names of the VMs, also of those that are gone; the newest last.
    names: Vec<(String, String)>,
    /// What the making of a VM consists of; each step comes when the stream was read so far. Afterwards it is
    /// made.
    pub steps: Vec<&'static str>,
    pub stream: Stream,
    /// Events in one page.
    pub page: usize,
}

impl Histories {
    pub fn new(stream: Stream, steps: &[&'static str]) -> Self {
        let (events, names) = (BTreeMap::new(), Vec::new());
        Self { events, names, steps: steps.to_vec(), stream, page: 1_000 }
    }

    pub fn begin(&mut self, vm: &Vm) {
        self.names.push((vm.name.to_string(), vm.id.clone()));
        self.events.insert(
            vm.id.clone(),
            vec![VmEvent {
                vm_id: vm.id.clone(),
                number: 1,
                at: now(),
                steady_micros: 5,
                kind: EventKind::State,
                from: None,
                to: VmStage::Creating,
                actor: Actor::Requestor,
                cause: Cause::Requested,
                detail: None,
                resources: vm.resources,
                delivered_micros: 0,
            }],
        );
    }

    /// Adds an event that is like the last one but for what `change` does to it.
    pub fn add(&mut self, vm: &str, change: impl FnOnce(&mut VmEvent)) {
        let events = self.events.get_mut(vm).unwrap();
        let mut event = events.last().unwrap().clone();
        event.number += 1;
        event.at = now();
        event.detail = None;
        change(&mut event);
        events.push(event);
    }

    /// The VM passes over to another state.
    pub fn passes(&mut self, vm: &str, to: VmStage) {
        self.add(vm, |event| {
            event.kind = EventKind::State;
            event.from = Some(event.to);
            event.to = to;
            event.actor = Actor::Provider;
            event.cause = Cause::Completed;
        });
    }

    fn id(&self, reference: &str) -> Option<&str> {
        let by_id = self.events.keys().find(|id| *id == reference);
        let by_name = || self.names.iter().rfind(|(name, _)| name == reference).map(|(_, id)| id);
        by_id.or_else(by_name).map(String::as_str)
    }

    pub fn page(&self, reference: &str, target: &str) -> Said {
        let Some(id) = self.id(reference) else {
            return problem(ErrorCode::VmNotFound, "no history of that VM is kept");
        };
        let after = after(target);
        let mut events: Vec<_> =
            self.events[id].iter().filter(|event| event.number > after).cloned().collect();
        let more = events.len() > self.page;
        events.truncate(self.page);
        let next = events.last().map(|event| event.number).filter(|_| more);
        (200, json!(VmEvents { events, next }))
    }
}

fn after(target: &str) -> u64 {
    let query = target.split_once('?').map_or("", |(_, query)| query);
    let value = query.split('&').find_map(|pair| pair.strip_prefix("after="));
    value.map_or(0, |number| number.parse().unwrap())
}

/// The stream that answers a request, if the request is for one and there are any.
pub fn streamed(
    state: &mut State,
    shared: &Arc<Mutex<State>>,
    key: &KeyPair,
    request: &Received,
) -> Option<Answer> {
    let path = request.target.split('?').next().unwrap();
    let reference = path.strip_prefix("/api/v1/vms/")?.strip_suffix("/events/stream")?;
    let histories = state.histories.as_ref()?;
    let doing = histories.stream;
    let id = histories.id(reference).filter(|_| doing != Stream::None)?.to_owned();
    let carried = RequestSignature::carried_by(&request.headers).unwrap();
    let input = request.headers["signature-input"].to_str().unwrap();
    let nonce = input.split("nonce=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let other = KeyPair::from_secret_bytes([200; 32]).unwrap();
    let signer = |wrong| if doing == wrong { other.clone() } else { key.clone() };
    let headers = sign_stream(&signer(Stream::OtherHead), &carried, now().unix_seconds())
        .into_iter()
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
        .collect();
    let key = signer(Stream::OtherSigner);
    let nonce = if doing == Stream::OtherRequest { "x".to_owned() } else { nonce };
    let (send, frames) = tokio::sync::mpsc::unbounded_channel();
    let mut last = after(&request.target);
    let shared = Arc::clone(shared);
    std::thread::spawn(move || {
        while !send.is_closed() {
            std::thread::sleep(Duration::from_millis(20));
            if doing == Stream::Silent {
                continue;
            }
            if doing == Stream::Endless {
                let _ = send.send(vec![b'x'; 1 << 16]);
                continue;
            }
            let mut state = shared.lock().unwrap();
            let histories = state.histories.as_mut().unwrap();
            let mut news: Vec<_> =
                histories.events[&id].iter().filter(|event| event.number > last).cloned().collect();
            if news.is_empty() {
                advance(&mut state, &id);
                continue;
            }
            drop(state);
            for event in &mut news {
                last = event.number;
                if doing == Stream::Gap && event.number == 2 {
                    continue;
                }
                if doing == Stream::OtherVm {
                    event.vm_id = "vm_00000000000000000000000000".to_owned();
                }
                let (number, kind) = (event.number, event.kind);
                let said = StreamedEvent { nonce: nonce.clone(), event: event.clone() };
                let data = serde_json::to_string(&Envelope::seal(&said, &key).unwrap()).unwrap();
                let frame = format!(":\n\nid: {number}\nevent: {kind}\ndata: {data}\n\n");
                // In pieces, as a network may deliver them.
                for piece in frame.as_bytes().chunks(1_000) {
                    let _ = send.send(piece.to_vec());
                }
                let over = matches!(event.to, VmStage::Destroyed | VmStage::Failed);
                if over || doing == Stream::Cut {
                    return;
                }
            }
        }
    });
    Some(Answer::Stream { headers, frames })
}

/// The next step of the making of a VM, if it is being made.
fn advance(state: &mut State, id: &str) {
    let histories = state.histories.as_mut().unwrap();
    if histories.events[id].last().unwrap().to != VmStage::Creating {
        return;
    }
    if histories.steps.is_empty() {
        histories.passes(id, VmStage::Running);
        finish(state);
        return;
    }
    let step = histories.steps.remove(0);
    histories.add(id, |event| {
        event.kind = EventKind::Progress;
        event.from = Some(VmStage::Creating);
        event.actor = Actor::Provider;
        event.detail = Some(step.to_owned());
    });
}
