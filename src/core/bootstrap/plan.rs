//! What to do about each listed artifact: pure decisions over what the store says.

use bytes::Bytes;

use crate::core::base::ids::ArtifactId;
use crate::core::store::error::StoreError;
use crate::core::store::record::Record;
use crate::core::store::{Store, Wants};

/// What to do about one listed artifact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Fetch it.
    Fetch,
    /// Its bytes are here under an older version.
    Adopt,
    /// It, or something newer, is here, or it was deleted or evicted.
    Skip,
    /// This store is full of newer artifacts: it would be evicted at once.
    PassOver,
    /// Its version is too far ahead of our clock: the row is skipped and reported.
    Refuse,
}

/// What the store's answer means for catching up.
pub fn decide(wants: Wants) -> Action {
    match wants {
        Wants::Fetch => Action::Fetch,
        Wants::Adopt => Action::Adopt,
        Wants::AlreadyHere | Wants::Tombstoned | Wants::Evicted => Action::Skip,
        Wants::BeyondCapacity => Action::PassOver,
        Wants::ClockSkew => Action::Refuse,
    }
}

/// A listed artifact and what to do about it.
#[derive(Debug, Clone)]
pub struct PlannedItem {
    /// Its id, computed from its name.
    pub id: ArtifactId,
    /// What the peer says of it.
    pub record: Box<Record>,
    /// Its body, if that rode along.
    pub body: Option<Bytes>,
    /// What to do.
    pub action: Action,
}

impl PlannedItem {
    /// Whether a peer has to be asked for its body.
    pub fn needs_request(&self) -> bool {
        self.action == Action::Fetch && self.body.is_none()
    }
}

/// Plans a page against the store; blocks. What is not here and older than `floor_ms` is passed over.
pub fn plan_page(
    store: &Store,
    artifacts: Vec<(Box<Record>, Option<Bytes>)>,
    floor_ms: u64,
) -> Result<Vec<PlannedItem>, StoreError> {
    let records: Vec<&Record> = artifacts.iter().map(|(record, _)| record.as_ref()).collect();
    let wants = store.wants_all(&records)?;
    let mut items = Vec::with_capacity(artifacts.len());
    for ((record, body), (id, wants)) in artifacts.into_iter().zip(wants) {
        let action = match decide(wants) {
            Action::Fetch if record.version_ms < floor_ms && store.lookup(&id)?.is_none() => Action::PassOver,
            action => action,
        };
        items.push(PlannedItem { id, record, body, action });
    }
    Ok(items)
}
