//! How many answers of one kind may be under way at once; a request that finds no place is told to come back.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::reply::Refused;

/// Bulk answers under way at once: each holds up to two batches of bodies, so together they stay below 50 MiB. A peer asks
/// for three at a time, so a mesh of a few joining nodes is served side by side.
pub const BULK_STREAMS_MAX: usize = 16;

/// Bodies on their way to peers at once, each an open file and a buffer of its own: many times what a mesh of joining
/// nodes asks for with the usual concurrency, and far below the usual limit of open files.
pub const BODY_STREAMS_MAX: usize = 256;

/// How long a request waits for one of them to end before it is told to come back: long enough for the usual answer to
/// pass, far shorter than a peer's patience.
const SLOT_WAIT: Duration = Duration::from_secs(5);

/// Places of one kind; cheap to clone.
#[derive(Debug, Clone)]
pub struct Slots {
    code: &'static str,
    most: usize,
    slots: Arc<Semaphore>,
}

impl Slots {
    /// Those of bulk answers.
    pub fn for_bulk() -> Self {
        Self::new("bulk_streams", BULK_STREAMS_MAX)
    }

    /// Those of single bodies.
    pub fn for_bodies() -> Self {
        Self::new("body_streams", BODY_STREAMS_MAX)
    }

    fn new(code: &'static str, most: usize) -> Self {
        Self { code, most, slots: Arc::new(Semaphore::new(most)) }
    }

    /// A place, which ends with the answer that holds it.
    pub(super) async fn take(&self) -> Result<OwnedSemaphorePermit, Refused> {
        let taken = tokio::time::timeout(SLOT_WAIT, Arc::clone(&self.slots).acquire_owned()).await;
        let busy = || Refused::busy(self.code, format!("{} answers of this kind are under way", self.most));
        taken.ok().and_then(Result::ok).ok_or_else(busy)
    }
}
