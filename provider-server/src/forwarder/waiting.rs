//! The clients that have not said yet what they want: so many, and the newest of them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// Undecided clients of one VM's port: fewer than there are places for newcomers (`crowd`), so that the
/// silent alone never fill those.
pub(super) const PER_PORT: usize = 20;

/// Clients of all ports that lead nowhere.
pub(super) const OF_FREE_PORTS: usize = 1024;

/// A bounded set. Whoever comes when it is full takes the place of the one that has waited longest:
/// an honest client says at once what it wants, so that a crowd of silent ones keeps nobody out.
#[derive(Debug)]
pub(super) struct Waiting {
    limit: usize,
    inside: Mutex<Inside>,
}

#[derive(Debug, Default)]
struct Inside {
    next: u64,
    /// In the order of coming.
    places: VecDeque<(u64, CancellationToken)>,
}

impl Waiting {
    /// An empty set of at most `limit`.
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, inside: Mutex::default() })
    }

    /// Takes a place, at the cost of whoever has waited longest if need be.
    pub(super) fn enter(self: &Arc<Self>) -> Place {
        let gone = CancellationToken::new();
        let mut inside = self.inside();
        if inside.places.len() >= self.limit
            && let Some((_, longest)) = inside.places.pop_front()
        {
            longest.cancel();
        }
        let number = inside.next;
        inside.next += 1;
        inside.places.push_back((number, gone.clone()));
        drop(inside);
        Place { number, gone, waiting: Arc::clone(self) }
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place, given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    number: u64,
    gone: CancellationToken,
    waiting: Arc<Waiting>,
}

impl Place {
    /// Returns when the place was taken by somebody else.
    pub(super) async fn lost(&self) {
        self.gone.cancelled().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inside = self.waiting.inside();
        // Rising numbers: found by halving.
        if let Ok(at) = inside.places.binary_search_by_key(&self.number, |(number, _)| *number) {
            inside.places.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_waiting_makes_room() {
        let waiting = Waiting::new(2);
        let first = waiting.enter();
        let second = waiting.enter();
        let third = waiting.enter();
        assert!(first.gone.is_cancelled());
        assert!(!second.gone.is_cancelled() && !third.gone.is_cancelled());
        drop((first, second));
        let fourth = waiting.enter();
        assert!(!third.gone.is_cancelled() && !fourth.gone.is_cancelled());
        drop((third, fourth));
        assert!(waiting.inside().places.is_empty());
    }
}
