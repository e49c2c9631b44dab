//! How long each part of making a VM took, from when the command began.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

/// A clock that is looked at behind each part.
#[derive(Debug)]
pub(in crate::commands) struct Laps {
    began: Instant,
    last: Cell<Instant>,
    laps: RefCell<Vec<(&'static str, Duration)>>,
}

impl Laps {
    /// It runs from now on.
    pub(in crate::commands) fn start() -> Self {
        let began = Instant::now();
        Self { began, last: Cell::new(began), laps: RefCell::default() }
    }

    /// The part `name` has ended. One that was done before, for another provider, takes that much longer.
    pub(in crate::commands) fn lap(&self, name: &'static str) {
        let now = Instant::now();
        let took = now.duration_since(self.last.replace(now));
        let mut laps = self.laps.borrow_mut();
        match laps.iter_mut().find(|(known, _)| *known == name) {
            Some((_, sum)) => *sum += took,
            None => laps.push((name, took)),
        }
    }

    /// All of it, in milliseconds: each part, and the `total`.
    pub(in crate::commands) fn json(&self) -> Value {
        let milliseconds =
            |took: Duration| json!(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        let mut parts: Map<String, Value> = Map::new();
        for (name, took) in self.laps.borrow().iter() {
            parts.insert((*name).to_owned(), milliseconds(*took));
        }
        parts.insert("total".to_owned(), milliseconds(self.last.get().duration_since(self.began)));
        Value::Object(parts)
    }

    /// The same for a person: `2.1 s (0.1 s search, 1.6 s make, …)`.
    pub(in crate::commands) fn words(&self) -> String {
        let seconds = |took: Duration| format!("{:.1} s", took.as_secs_f64());
        let laps = self.laps.borrow();
        let parts: Vec<String> = laps
            .iter()
            .map(|(name, took)| format!("{} {}", name.replace('_', " "), seconds(*took)))
            .collect();
        let total = seconds(self.last.get().duration_since(self.began));
        if parts.is_empty() { total } else { format!("{total} ({})", parts.join(", ")) }
    }
}
