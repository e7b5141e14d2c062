//! Hands a long body out of staging: it was brought whole, and is not kept here.
//!
//! Invariant: the staged file, its reservation and the place of the read are held until the last byte is out or the client
//! is gone.

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::try_unfold;
use tokio::sync::OwnedSemaphorePermit;

use super::ask::Through;
use super::body::ThroughError;
use crate::core::base::executor::{self, StoreExecutor};
use crate::core::bootstrap::fetch::Fetched;
use crate::core::staging::body_writer::StagedContent;
use crate::core::staging::staged_file::StagedFile;

/// Bytes read at a time; see the reader of body files.
const CHUNK_BYTES: u64 = 256 << 10;

/// A staged body on its way out.
struct Outgoing {
    executor: Arc<dyn StoreExecutor>,
    file: Arc<StagedFile>,
    offset: u64,
    length: u64,
    _place: OwnedSemaphorePermit,
}

/// The answer that is this body.
pub(super) fn hand_out(executor: Arc<dyn StoreExecutor>, fetched: Fetched, place: OwnedSemaphorePermit) -> Through {
    let Fetched { record, body } = fetched;
    let file = match body.content {
        StagedContent::Inline(bytes) => return Through::Whole(Arc::new(record), bytes),
        StagedContent::File(file) => Arc::new(file),
    };
    let outgoing = Outgoing { executor, file, offset: 0, length: body.length, _place: place };
    Through::Stream(Box::new(record), try_unfold(outgoing, next).boxed())
}

async fn next(mut outgoing: Outgoing) -> Result<Option<(Bytes, Outgoing)>, ThroughError> {
    let (offset, left) = (outgoing.offset, outgoing.length.saturating_sub(outgoing.offset));
    if left == 0 {
        return Ok(None);
    }
    let mut chunk = vec![0; usize::try_from(left.min(CHUNK_BYTES)).unwrap_or(usize::MAX)];
    let file = Arc::clone(&outgoing.file);
    let read = executor::run(outgoing.executor.as_ref(), move || {
        file.file().read_exact_at(&mut chunk, offset).map(|()| Bytes::from(chunk))
    });
    let read = read.await.map_err(|lost| ThroughError::Staged { reason: lost.to_string() })?;
    let chunk = read.map_err(|error| ThroughError::Staged { reason: error.to_string() })?;
    outgoing.offset = offset.saturating_add(chunk.len() as u64);
    Ok(Some((chunk, outgoing)))
}
