//! Looks at all instances of a backend, every few seconds, in one question.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use golem_vm_protocol::VmId;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::backend::{Backend, InstanceId, Observation};

/// How often all instances are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// How long an answer may take.
const DEADLINE: Duration = Duration::from_secs(60);

/// What was seen of all instances, or why nothing could be.
#[derive(Debug, Clone)]
pub(super) struct Survey {
    asked: Instant,
    /// How often the backend has gone away, as far as it tells.
    interruptions: u64,
    seen: Option<Result<Arc<BTreeMap<InstanceId, Observation>>, String>>,
}

impl Survey {
    /// Before the first one.
    pub(super) fn none() -> Self {
        Self { asked: Instant::now(), interruptions: 0, seen: None }
    }

    /// When it was asked. What was done later does not show.
    pub(super) const fn asked(&self) -> Instant {
        self.asked
    }

    /// How often the backend has gone away until then: it may have taken instances with it, and be back
    /// before anybody had a question for it.
    pub(super) const fn interruptions(&self) -> u64 {
        self.interruptions
    }

    /// What was seen of a VM's instance; `None` before the first survey.
    pub(super) fn of(&self, vm: VmId) -> Option<Result<Observation, String>> {
        let instance = InstanceId::of(vm);
        self.seen.as_ref().map(|seen| match seen {
            Ok(all) => Ok(all.get(&instance).cloned().unwrap_or(Observation::Absent)),
            Err(reason) => Err(reason.clone()),
        })
    }
}

/// Looks until `token` is cancelled.
pub(super) async fn run(
    backend: Arc<dyn Backend>,
    surveys: watch::Sender<Survey>,
    token: CancellationToken,
) {
    let mut timer = interval(LOOK_INTERVAL);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut interruptions = 0;
    let mut presence = backend.interrupted();
    let mut is_present = true;
    loop {
        tokio::select! {
            () = token.cancelled() => return,
            () = &mut presence, if is_present => {
                is_present = false;
                interruptions += 1;
                continue;
            }
            _ = timer.tick() => {}
        }
        let asked = Instant::now();
        let answer = tokio::select! {
            () = token.cancelled() => return,
            answer = timeout(DEADLINE, backend.survey()) => answer,
        };
        let seen = match answer {
            Ok(Ok(seen)) => Ok(Arc::new(seen)),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => {
                Err(format!("the backend did not answer within {} seconds", DEADLINE.as_secs()))
            }
        };
        if !is_present && seen.is_ok() {
            presence = backend.interrupted();
            is_present = true;
        }
        surveys.send_replace(Survey { asked, interruptions, seen: Some(seen) });
    }
}
