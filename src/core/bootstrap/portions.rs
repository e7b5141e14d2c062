//! The bodies of a page that have to be asked for, in portions: no more at a time than has room here.
//!
//! How it works: a portion is what the store says may be fetched now. When it is settled the rest is looked at again:
//! each item is compared with the store once more before it is asked for, so what would be evicted at once by then is
//! passed over without a request. The keeper of the room gets a look before that: what was staged while it looked before is
//! charged by now, and where a portion went beyond the capacity, eviction moves the version up to which that is so.
//!
//! Invariant: each portion has an item at least, so a page ends.

use std::time::Duration;

use super::engine::Engine;
use super::groups::{settle_in_bulk, travels_in_bulk};
use super::plan::PlannedItem;
use super::settle::PageEnds;
use crate::core::store::error::StoreError;

/// How long a look at the volume is waited for between two portions; it usually takes some milliseconds.
const LOOK_WAIT: Duration = Duration::from_secs(1);

/// Settles items of which each needs a request.
pub(super) async fn settle_in_portions(ends: &PageEnds<'_>, items: Vec<PlannedItem>) -> Result<(), StoreError> {
    let (pass, mut left) = (ends.pass, items);
    while !left.is_empty() {
        let rest = left.split_off(fitting(pass.engine, &left));
        let (small, large): (Vec<_>, Vec<_>) = left.into_iter().partition(|item| travels_in_bulk(pass.peer, item));
        tokio::try_join!(ends.settle_each(large, pass.engine.concurrency), settle_in_bulk(ends, small))?;
        left = rest;
        if !left.is_empty() {
            pass.engine.space.looked(LOOK_WAIT).await;
        }
    }
    Ok(())
}

/// How many of them, from the first on, may be fetched now.
fn fitting(engine: &Engine, items: &[PlannedItem]) -> usize {
    let offered = items.iter().map(|item| item.record.as_ref());
    engine.store.current().map_or(items.len(), |store| store.fitting(offered))
}
