//! An SSH session that is held open, with bytes going both ways.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::Scene;
use crate::requestor::{Requestor, Session};

/// How often a line is sent, and its length without its number.
const PAUSE: Duration = Duration::from_millis(100);
const LINE: usize = 900;

/// A session. Dropped, it ends.
#[derive(Debug)]
pub(crate) struct Held {
    let_go: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Held {
    /// Logs in to a VM, and goes on talking; from `end` on it may end.
    pub(crate) fn open(
        requestor: &Requestor,
        vm: &str,
        end: Option<Instant>,
        scene: &Arc<Scene>,
    ) -> Self {
        let session = requestor.quiet_session(vm);
        let let_go = Arc::new(AtomicBool::new(false));
        let talk = Talk {
            session,
            vm: vm.to_owned(),
            let_go: Arc::clone(&let_go),
            end,
            scene: Arc::clone(scene),
        };
        Self { let_go, thread: Some(thread::spawn(move || talk.go_on())) }
    }

    /// Whether it goes on.
    pub(crate) fn is_open(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// From now on it may end: its VM is about to be stopped.
    pub(crate) fn may_end(&self) {
        self.let_go.store(true, Ordering::SeqCst);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.may_end();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Talk {
    session: Session,
    vm: String,
    let_go: Arc<AtomicBool>,
    end: Option<Instant>,
    scene: Arc<Scene>,
}

impl Talk {
    fn go_on(mut self) {
        let (mut said, mut bytes, began) = (0_u64, 0_u64, Instant::now());
        let mut heard_at = began;
        let padding = "x".repeat(LINE);
        while !self.let_go.load(Ordering::SeqCst) {
            let line = format!("{said} {padding}");
            let asked = Instant::now();
            if !self.session.answers(&line) {
                self.ended(said, asked);
                break;
            }
            heard_at = Instant::now();
            said += 1;
            bytes += 2 * u64::try_from(line.len() + 1).unwrap();
            thread::sleep(PAUSE);
        }
        let mut report = self.scene.report();
        report.bytes += bytes;
        if said > 0 {
            report.sessions += 1;
            report.survived += self.scene.weather.provider_ends(began, heard_at);
        }
    }

    /// Says so if nothing explains it. One that never heard anything was not logged in.
    fn ended(&self, said: u64, asked: Instant) {
        let due = self.end.is_some_and(|end| end < Instant::now());
        if due || self.let_go.load(Ordering::SeqCst) || self.scene.is_over() {
            return;
        }
        if self.scene.weather.has_cut_since(asked) {
            self.scene.report().sessions_cut += u64::from(said > 0);
        } else if said > 0 || self.scene.weather.was_calm_since(asked) {
            self.scene.violated(format!(
                "an SSH session in {} ended after {said} lines, and nothing that ends sessions had happened",
                self.vm
            ));
        }
    }
}
