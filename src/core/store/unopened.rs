//! What can be known of a store while it is not open: its id, and what was deleted in it.
//!
//! How it works: the identity is a file of its own, and each delete is in the side log before it is acknowledged (see
//! [`super::tombstone_log`]), whether a client asked for it or a peer told of it. Both are read anew each time: a store
//! that is being closed may still append.
//!
//! Invariant: a log that is not whole says nothing. Then nobody knows what was deleted until the index is open.

use std::io;
use std::sync::Arc;

pub(crate) use super::state::is_deleted;
use super::tombstone_log;
use crate::core::base::executor::{self, StoreExecutor};
use crate::core::base::ids::StoreId;
use crate::core::data_dir::identity::{Identity, IdentityState, InitState};
use crate::core::data_dir::layout::Layout;

/// The files of a store; cheap to clone.
#[derive(Debug, Clone)]
pub struct UnopenedStore {
    layout: Layout,
    executor: Arc<dyn StoreExecutor>,
}

impl UnopenedStore {
    /// The store in this data dir. Touches nothing yet.
    pub fn new(layout: Layout, executor: Arc<dyn StoreExecutor>) -> Self {
        Self { layout, executor }
    }

    /// Where its files are read.
    pub fn executor(&self) -> &Arc<dyn StoreExecutor> {
        &self.executor
    }

    /// Its id, if there is a store. An index that is made anew gives it another one.
    pub async fn store_id(&self) -> Option<StoreId> {
        let layout = self.layout.clone();
        let identity = executor::run(self.executor.as_ref(), move || identity(&layout)).await.ok()?;
        identity.map(|identity| identity.store_id)
    }

    /// Up to which version a namespace was deleted in it, if it was.
    ///
    /// # Errors
    /// The log of deletes is missing, damaged or cannot be read.
    pub async fn deleted_up_to(&self, namespace: &str) -> io::Result<Option<u64>> {
        let (layout, namespace) = (self.layout.clone(), namespace.to_owned());
        let read = executor::run(self.executor.as_ref(), move || deleted_up_to(&layout, &namespace));
        read.await.unwrap_or_else(|lost| Err(io::Error::other(lost.to_string())))
    }
}

fn identity(layout: &Layout) -> Option<Identity> {
    match Identity::load(layout) {
        Ok(IdentityState::Ok(identity)) => Some(*identity),
        _ => None,
    }
}

fn deleted_up_to(layout: &Layout, namespace: &str) -> io::Result<Option<u64>> {
    match Identity::load(layout)? {
        // Nothing was ever acknowledged here.
        IdentityState::Absent => Ok(None),
        IdentityState::Ok(identity) if identity.init_state == InitState::Initialising => Ok(None),
        _ => tombstone_log::newest_of(&layout.tombstones_log(), namespace),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::base::disk::RealDisk;
    use crate::core::base::executor::InlineExecutor;

    #[tokio::test]
    async fn a_store_without_its_log_says_nothing_of_deletes_unless_it_is_new() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::with_default_tmp(root.path().join("data"));
        std::fs::create_dir_all(layout.data_dir()).unwrap();
        let unopened = UnopenedStore::new(layout.clone(), Arc::new(InlineExecutor));
        assert_eq!((unopened.store_id().await, unopened.deleted_up_to("ios").await.unwrap()), (None, None));
        let mut identity = Identity::new(StoreId([7; 16]), "default", 4096);
        identity.store(&layout, &RealDisk).unwrap();
        assert_eq!(unopened.store_id().await, Some(StoreId([7; 16])));
        assert_eq!(unopened.deleted_up_to("ios").await.unwrap(), None);
        for state in [InitState::Ready, InitState::Rebuilding] {
            identity.init_state = state;
            identity.store(&layout, &RealDisk).unwrap();
            assert_eq!(unopened.deleted_up_to("ios").await.unwrap_err().kind(), io::ErrorKind::NotFound, "{state:?}");
        }
    }
}
