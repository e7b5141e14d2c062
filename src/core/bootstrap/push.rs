//! Pushes deletes to seed-era peers: they pull nothing from us once they serve, so a clean would not reach them.
//!
//! How it works: our own tombstones are listed, and those newer in our log than the last one pushed are sent. How far
//! each peer is told is remembered beside the cursors. A peer that knows a newer delete ignores ours.

use crate::core::base::ids::Seq;
use crate::core::bootstrap::engine::Engine;
use crate::core::mesh::client::PeerError;
use crate::core::store::cursor::Cursor;
use crate::core::store::error::StoreError;

/// Tombstones looked at in one step.
const PAGE_ROWS: usize = 256;

/// Pushing stopped.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The peer did not take a delete.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// Our own store did not list them.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Tells a seed-era peer of every delete it was not told of yet.
pub async fn push_deletes(engine: &Engine, url: &str) -> Result<u64, PushError> {
    let key = format!("push:{url}");
    let read_key = key.clone();
    let told = engine.store.call(move |store| store.cursor(&read_key)).await?;
    let told_up_to = told.map_or(Seq(0), |cursor| cursor.followed);
    let (mut after, mut highest, mut pushed): (Option<String>, Seq, u64) = (None, told_up_to, 0);
    loop {
        let from = after.clone();
        let page = engine.store.call(move |store| store.tombstone_page(from.as_deref(), PAGE_ROWS)).await?;
        for tombstone in page.tombstones.iter().filter(|tombstone| tombstone.seq > told_up_to) {
            let began = engine.clock.monotonic();
            let taken = engine.client.delete_namespace(url, &tombstone.namespace, tombstone.version_ms).await;
            engine.metrics.delete_pushed(taken.is_ok(), engine.clock.monotonic().saturating_sub(began));
            taken?;
            highest = highest.max(tombstone.seq);
            pushed += 1;
        }
        after = page.next_after;
        if after.is_none() {
            break;
        }
    }
    if highest > told_up_to {
        remember(engine, key, highest).await?;
    }
    Ok(pushed)
}

async fn remember(engine: &Engine, key: String, followed: Seq) -> Result<(), StoreError> {
    let save = move |store: &crate::core::store::Store| {
        let stats = store.stats();
        let cursor = Cursor { store_id: stats.store_id, epoch: stats.epoch, followed, walk: None };
        store.save_cursor(&key, Some(&cursor))
    };
    engine.store.call(save).await
}
