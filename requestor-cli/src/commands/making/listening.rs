//! What a provider tells while it makes a VM, as it happens. Only shown, and a reason to ask at once: the
//! outcome is what an ordinary, signed answer says.

use std::cell::Cell;
use std::time::Duration;

use golem_vm_protocol::text::printable;
use golem_vm_protocol::vm::{EventKind, VmEvent, VmStage};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::app::App;
use crate::market::label;
use crate::rentals::Rental;
use crate::ui::Progress;

/// How long a stream may take to begin before what is asked for is shown in its place.
const OPENING: Duration = Duration::from_secs(2);

/// How far the stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Opening,
    Live,
    Over,
}

/// What whoever asks for the outcome knows of the stream.
#[derive(Debug)]
pub(super) struct Listening {
    began: Instant,
    stage: Cell<Stage>,
    news: Notify,
}

impl Listening {
    /// To a stream that is not open yet.
    pub(super) fn new() -> Self {
        Self { began: Instant::now(), stage: Cell::new(Stage::Opening), news: Notify::new() }
    }

    /// Whether the stream tells what goes on, so that asking seldom is enough.
    pub(super) const fn is_live(&self) -> bool {
        matches!(self.stage.get(), Stage::Live)
    }

    /// Whether the stream tells what goes on, or will in a moment, from the beginning: then nobody else does.
    pub(super) fn tells(&self) -> bool {
        match self.stage.get() {
            Stage::Opening => self.began.elapsed() < OPENING,
            Stage::Live => true,
            Stage::Over => false,
        }
    }

    /// Waits until the stream has told something that makes asking worth while.
    pub(super) async fn news(&self) {
        self.news.notified().await;
    }

    /// Shows what the provider tells, for as long as it does. Older providers tell nothing.
    pub(super) async fn run(&self, app: &App<'_>, rental: &Rental, progress: &Progress) {
        if let Err(error) = self.listen(app, rental, progress).await {
            app.ui.detail(&format!("following '{}' by asking: {error}", rental.name));
        }
        self.stage.set(Stage::Over);
        self.news.notify_one();
    }

    async fn listen(
        &self,
        app: &App<'_>,
        rental: &Rental,
        progress: &Progress,
    ) -> Result<(), Box<dyn std::error::Error>> {
        let at = label(&rental.provider.name, &rental.provider.id);
        let mut stream = app.client()?.watch(&rental.provider, &rental.reference(), 0).await?;
        self.stage.set(Stage::Live);
        while let Some(event) = stream.next().await? {
            match phase(&event) {
                Some(phase) => progress.step(&format!("{at}: {phase}")),
                None => self.news.notify_one(),
            }
        }
        Ok(())
    }
}

/// What it is doing, while it is at it.
fn phase(event: &VmEvent) -> Option<String> {
    match (event.kind, event.to) {
        (EventKind::State, VmStage::Creating | VmStage::Starting) | (EventKind::Progress, _) => {
            let detail = event.detail.as_deref().unwrap_or("making the VM");
            Some(printable(detail, 100))
        }
        (EventKind::State, _) => None,
        _ => Some(printable(event.detail.as_deref().unwrap_or("making the VM"), 100)),
    }
}
