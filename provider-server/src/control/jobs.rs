//! Long work that the owner's command follows line by line.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use golem_vm_node::http::ProblemResponse;
use golem_vm_protocol::text::printable;
use golem_vm_protocol::{ErrorCode, Problem};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::messages::{JobOutcome, JobProgress};
use crate::backend::ProgressSender;
use crate::images::ImageError;
use crate::images::ImageRow;

/// Jobs that are remembered; older ones are forgotten when they are over.
const MAX_JOBS: usize = 32;
/// Lines that are kept of one job.
const MAX_LINES: usize = 10_000;
/// Longest line in characters.
const MAX_LINE: usize = 500;

/// The work under way, and the last that ended. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Jobs {
    // A plain mutex: held for a look-up or a push, never across an await.
    table: Arc<Mutex<Table>>,
}

#[derive(Default)]
struct Table {
    last: u64,
    jobs: BTreeMap<u64, Job>,
}

struct Job {
    lines: Vec<String>,
    outcome: Option<JobOutcome>,
    cancel: CancellationToken,
}

impl Jobs {
    /// Begins work that reports lines and ends with an image.
    pub(super) fn begin<F, W>(&self, work: F) -> u64
    where
        F: FnOnce(ProgressSender) -> W,
        W: Future<Output = Result<ImageRow, ImageError>> + Send + 'static,
    {
        let (sender, mut lines) = mpsc::channel(64);
        let cancel = CancellationToken::new();
        let id = self.insert(cancel.clone());
        let work = work(sender);
        let jobs = self.clone();
        tokio::spawn(async move {
            let collector = jobs.clone();
            let collecting = tokio::spawn(async move {
                while let Some(line) = lines.recv().await {
                    collector.push(id, &line);
                }
            });
            // Dropping the work is how it is cancelled; it cleans up after itself.
            let outcome = tokio::select! {
                () = cancel.cancelled() => {
                    JobOutcome::Failed(Problem::new(ErrorCode::Unavailable, "cancelled"))
                }
                result = work => match result {
                    Ok(image) => JobOutcome::Done(image),
                    Err(error) => JobOutcome::Failed(*ProblemResponse::from(error).0),
                },
            };
            // The work has dropped its sender, so this ends once every line is in.
            let _ = collecting.await;
            jobs.end(id, outcome);
        });
        id
    }

    fn insert(&self, cancel: CancellationToken) -> u64 {
        let mut table = self.lock();
        table.last += 1;
        let id = table.last;
        table.jobs.insert(id, Job { lines: Vec::new(), outcome: None, cancel });
        while table.jobs.len() > MAX_JOBS {
            let Some(over) =
                table.jobs.iter().find(|(_, job)| job.outcome.is_some()).map(|(id, _)| *id)
            else {
                break;
            };
            table.jobs.remove(&over);
        }
        id
    }

    fn push(&self, id: u64, line: &str) {
        if let Some(job) = self.lock().jobs.get_mut(&id)
            && job.lines.len() < MAX_LINES
        {
            job.lines.push(printable(line.trim_end(), MAX_LINE));
        }
    }

    fn end(&self, id: u64, outcome: JobOutcome) {
        if let Some(job) = self.lock().jobs.get_mut(&id) {
            job.outcome = Some(outcome);
        }
    }

    /// How far a job is, from line `from` on; `None` when there is no such job.
    pub(super) fn progress(&self, id: u64, from: usize) -> Option<JobProgress> {
        let table = self.lock();
        let job = table.jobs.get(&id)?;
        Some(JobProgress {
            lines: job.lines.get(from..).unwrap_or_default().to_vec(),
            next: job.lines.len(),
            outcome: job.outcome.clone(),
        })
    }

    /// Cancels a job. Returns whether there was one.
    pub(super) fn cancel(&self, id: u64) -> bool {
        self.lock().jobs.get(&id).map(|job| job.cancel.cancel()).is_some()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    async fn outcome(jobs: &Jobs, id: u64) -> JobProgress {
        loop {
            let progress = jobs.progress(id, 0).unwrap();
            if progress.outcome.is_some() {
                return progress;
            }
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn lines_arrive_before_the_outcome() {
        let jobs = Jobs::default();
        let id = jobs.begin(|lines| async move {
            lines.send("one\x1b[0m\n".to_owned()).await.unwrap();
            lines.send("two".to_owned()).await.unwrap();
            Err(ImageError::Unknown("x".to_owned()))
        });
        let progress = outcome(&jobs, id).await;
        assert_eq!(progress.lines, ["one\u{fffd}[0m", "two"]);
        assert_eq!(jobs.progress(id, 1).unwrap().lines, ["two"]);
        assert!(matches!(progress.outcome, Some(JobOutcome::Failed(_))));
        assert!(jobs.progress(id + 1, 0).is_none());
    }

    #[tokio::test]
    async fn what_is_cancelled_ends() {
        let jobs = Jobs::default();
        let id = jobs.begin(|_lines| std::future::pending());
        assert!(jobs.cancel(id));
        assert!(matches!(outcome(&jobs, id).await.outcome, Some(JobOutcome::Failed(_))));
        assert!(!jobs.cancel(99));
    }
}
