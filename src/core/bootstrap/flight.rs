//! Single flight: of all passes that want one artifact, one at a time goes for it, and the others look again.
//!
//! Invariants: an entry lives only while someone holds or awaits it, so the map is as large as the fetches under way.
//! A pass waits here before it reserves room in staging, never while holding some.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::core::base::ids::ArtifactId;

#[derive(Debug, Default)]
struct Entry {
    gate: Option<Arc<Semaphore>>,
    users: usize,
}

/// The artifacts that are on their way; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Flights {
    entries: Arc<Mutex<HashMap<ArtifactId, Entry>>>,
}

/// The right to fetch one artifact; ends when dropped.
#[derive(Debug)]
pub struct Flight {
    _permit: Option<OwnedSemaphorePermit>,
    _seat: Seat,
}

/// A place in an artifact's queue; given up when dropped, also while waiting.
#[derive(Debug)]
struct Seat {
    flights: Flights,
    id: ArtifactId,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut entries = self.flights.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.get_mut(&self.id) {
            entry.users = entry.users.saturating_sub(1);
            if entry.users == 0 {
                entries.remove(&self.id);
            }
        }
    }
}

impl Flights {
    /// Waits until nobody else fetches this artifact. Then ask the store again: it may have come meanwhile.
    pub async fn enter(&self, id: ArtifactId) -> Flight {
        let gate = self.take_seat(id);
        let seat = Seat { flights: self.clone(), id };
        // The gate is never closed.
        let permit = gate.acquire_owned().await.ok();
        Flight { _permit: permit, _seat: seat }
    }

    /// Waits as [`Self::enter`], but not longer than this.
    pub async fn enter_within(&self, id: ArtifactId, patience: Duration) -> Option<Flight> {
        tokio::time::timeout(patience, self.enter(id)).await.ok()
    }

    /// Does not wait. Who goes for many at once must not wait for one while holding others.
    pub fn try_enter(&self, id: ArtifactId) -> Option<Flight> {
        let gate = self.take_seat(id);
        let seat = Seat { flights: self.clone(), id };
        let permit = gate.try_acquire_owned().ok()?;
        Some(Flight { _permit: Some(permit), _seat: seat })
    }

    fn take_seat(&self, id: ArtifactId) -> Arc<Semaphore> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = entries.entry(id).or_default();
        entry.users += 1;
        let gate = entry.gate.get_or_insert_with(|| Arc::new(Semaphore::new(1)));
        Arc::clone(gate)
    }

    /// Artifacts on their way now.
    pub fn count(&self) -> usize {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_flies_the_others_wait_and_nothing_stays_behind() {
        let flights = Flights::default();
        let (one, two) = (ArtifactId([1; 32]), ArtifactId([2; 32]));
        let first = flights.enter(one).await;
        let other = flights.enter(two).await;
        let mut second = Box::pin(flights.enter(one));
        assert!(futures_util::poll!(&mut second).is_pending());
        let mut gone = Box::pin(flights.enter(one));
        assert!(futures_util::poll!(&mut gone).is_pending());
        drop(gone);
        assert!(flights.try_enter(one).is_none(), "someone flies");
        assert!(flights.enter_within(one, Duration::from_millis(5)).await.is_none());
        assert!(flights.try_enter(ArtifactId([3; 32])).is_some());
        drop(first);
        drop(second.await);
        drop(other);
        assert_eq!(flights.count(), 0);
    }
}
