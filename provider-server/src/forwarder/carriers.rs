//! The tasks that carry sessions, and how all of them are stopped so that another program can go on.

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::session::Session;

/// How long stopping all of them may take. None of them waits for anything meanwhile.
const FREEZE_DEADLINE: Duration = Duration::from_secs(5);

/// A session that nobody carries at the moment.
#[derive(Debug)]
pub(super) struct Packed {
    /// The port that its client connected to.
    pub(super) port: u16,
    /// The VM that it leads to; none for a client of a port that led nowhere.
    pub(super) vm: Option<String>,
    /// The client's address.
    pub(super) peer: SocketAddr,
    /// How long ago it began.
    pub(super) age: Duration,
    /// All the rest.
    pub(super) session: Box<Session>,
}

/// The tasks that carry sessions.
#[derive(Debug, Default)]
pub(super) struct Carriers {
    tasks: TaskTracker,
    freeze: Mutex<CancellationToken>,
    packed: Mutex<Vec<Packed>>,
}

impl Carriers {
    /// Starts one. It has to end soon after [`Carriers::frozen`], and to give back what it carried.
    pub(super) fn spawn(&self, carrier: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(carrier);
    }

    /// Is cancelled when all of them are to stop.
    pub(super) fn frozen(&self) -> CancellationToken {
        lock(&self.freeze).clone()
    }

    /// Gives back a session that has been stopped.
    pub(super) fn give_back(&self, packed: Packed) {
        lock(&self.packed).push(packed);
    }

    /// Stops all of them; none must be started meanwhile. Returns their sessions, and how many have not
    /// stopped. Afterwards new ones can be started.
    pub(super) async fn stop_all(&self) -> (Vec<Packed>, usize) {
        lock(&self.freeze).cancel();
        self.tasks.close();
        let _ = timeout(FREEZE_DEADLINE, self.tasks.wait()).await;
        self.tasks.reopen();
        *lock(&self.freeze) = CancellationToken::new();
        (std::mem::take(&mut lock(&self.packed)), self.tasks.len())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
