//! Reads a body file for a response: in bounded chunks, verified on its first read.
//!
//! How it works: a file is read chunk by chunk on the executor, one chunk ahead of nobody: the connection asks, then
//! the next one is read. A file that was not verified in this process is hashed from its first byte while it goes
//! out, and the last chunk of what was asked is held back until the whole file proved good.
//!
//! Invariant: at most one chunk of [`READ_CHUNK_BYTES`] per response is being filled here. The memory of one that was
//! sent is filled again: fresh memory of that size comes from the system page by page, which takes as long as the copy.
//!
//! Failure: a short or mismatching file is reported to the store, which withdraws it; the stream ends with an error. An
//! I/O error ends it without withdrawing.

use std::fs::File;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream;
use rustix::buffer::spare_capacity;

use crate::core::base::executor::{self, StoreExecutor};
use crate::core::base::ids::Digest;
use crate::core::bootstrap::read_through::ThroughError;
use crate::core::store::FileBody;
use crate::core::store::record::Record;
use crate::core::store::store_handle::StoreHandle;

/// Bytes read from a file at a time. Large enough that the hop to a thread is noise at gigabytes per second, small
/// enough that a thousand downloads hold a quarter of a gigabyte at most.
pub const READ_CHUNK_BYTES: u64 = 256 << 10;

/// Sent chunks of a response kept for the next ones: while one is written the next is filled.
const SPARE_CHUNKS_MAX: usize = 2;

/// Memory of a response's chunks that were sent.
#[derive(Debug, Clone, Default)]
struct Spares(Arc<Mutex<Vec<Vec<u8>>>>);

impl Spares {
    fn take(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    /// The bytes; once they are sent their memory comes back.
    fn lend(&self, bytes: Vec<u8>) -> Bytes {
        Bytes::from_owner(Lent { bytes, spares: self.clone() })
    }
}

struct Lent {
    bytes: Vec<u8>,
    spares: Spares,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut spares = self.spares.0.lock().unwrap_or_else(PoisonError::into_inner);
        if spares.len() < SPARE_CHUNKS_MAX {
            self.bytes.clear();
            spares.push(std::mem::take(&mut self.bytes));
        }
    }
}

/// A body that broke off after its header was sent.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The file ended early.
    #[error("the body file is {length} bytes long, but ends at {offset}")]
    Short {
        /// What the manifest says.
        length: u64,
        /// Where it ended.
        offset: u64,
    },
    /// The bytes are not those of the manifest.
    #[error("the body's digest is {actual}, not {expected}")]
    Mismatch {
        /// What the manifest says.
        expected: Digest,
        /// What was read.
        actual: Digest,
    },
    /// The disk failed.
    #[error("failed to read the body at {offset}: {source}")]
    Io {
        /// Where.
        offset: u64,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The process is going down.
    #[error("the read was dropped")]
    Lost,
    /// It came from a peer and broke off, or proved bad.
    #[error(transparent)]
    Peer(#[from] ThroughError),
}

/// What reading a body needs.
#[derive(Debug, Clone)]
pub struct ReadContext {
    /// Where reading and hashing run.
    pub executor: Arc<dyn StoreExecutor>,
    /// Is told what was found.
    pub store: StoreHandle,
}

/// Reads a part of a body file in order.
#[derive(Debug)]
pub struct FileReader {
    context: ReadContext,
    record: Box<Record>,
    file: Arc<File>,
    length: u64,
    offset: u64,
    hasher: Option<Box<blake3::Hasher>>,
    range: Range<u64>,
    spares: Spares,
}

impl FileReader {
    /// Reads a range; the file is verified meanwhile unless it was.
    pub fn new(context: ReadContext, record: Box<Record>, body: FileBody, range: Range<u64>) -> Self {
        let (offset, hasher) = if body.verified { (range.start, None) } else { (0, Some(Box::default())) };
        let spares = Spares::default();
        Self { context, record, file: body.file, length: body.length, offset, hasher, range, spares }
    }

    /// Reads a range as it lies there: the receiver has the digest of the whole.
    pub fn unverified(context: ReadContext, record: Box<Record>, body: FileBody, range: Range<u64>) -> Self {
        Self::new(context, record, FileBody { verified: true, ..body }, range)
    }

    /// The range, chunk by chunk.
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes, BodyError>> + Send + 'static {
        stream::try_unfold(self, Self::next)
    }

    async fn next(mut self) -> Result<Option<(Bytes, Self)>, BodyError> {
        while self.offset < self.range.end {
            let start = self.offset;
            let chunk = self.read().await?;
            if self.offset <= self.range.start {
                continue;
            }
            let wanted = part_of(&chunk, start, &self.range);
            if self.offset >= self.range.end {
                self.verify().await?;
            }
            return Ok(Some((wanted, self)));
        }
        Ok(None)
    }

    /// The next chunk, hashed if the file is being verified.
    async fn read(&mut self) -> Result<Bytes, BodyError> {
        let end = if self.hasher.is_some() { self.length } else { self.range.end };
        let (offset, want) = (self.offset, READ_CHUNK_BYTES.min(end.saturating_sub(self.offset)));
        let (file, mut hasher, spares) = (Arc::clone(&self.file), self.hasher.take(), self.spares.clone());
        let job = move || {
            let read = read_at(&file, offset, want, &spares);
            if let (Ok(bytes), Some(hasher)) = (&read, hasher.as_mut()) {
                hasher.update(bytes);
            }
            (read, hasher)
        };
        let (read, hasher) = executor::run(self.context.executor.as_ref(), job).await.map_err(|_| BodyError::Lost)?;
        self.hasher = hasher;
        let bytes = read.map_err(|source| BodyError::Io { offset, source })?;
        self.offset = self.offset.saturating_add(bytes.len() as u64);
        if (bytes.len() as u64) < want {
            let error = BodyError::Short { length: self.length, offset: self.offset };
            self.report(&error).await;
            return Err(error);
        }
        Ok(bytes)
    }

    /// Reads to the end of a file under verification and holds its digest against the manifest's.
    async fn verify(&mut self) -> Result<(), BodyError> {
        while self.hasher.is_some() && self.offset < self.length {
            self.read().await?;
        }
        let Some(hasher) = self.hasher.take() else { return Ok(()) };
        let (expected, actual) = (self.record.digest, Digest(*hasher.finalize().as_bytes()));
        if actual != expected {
            let error = BodyError::Mismatch { expected, actual };
            self.report(&error).await;
            return Err(error);
        }
        let record = self.record.clone();
        let noted = self.context.store.call(move |store| {
            store.note_verified(&record);
            Ok(())
        });
        if let Err(error) = noted.await {
            tracing::debug!(%error, "verification_not_noted");
        }
        Ok(())
    }

    /// The store withdraws the body and wants it back; if it cannot be told now, the next reader finds the same.
    async fn report(&self, error: &BodyError) {
        let (record, reason) = (self.record.clone(), error.to_string());
        let reported = self.context.store.call(move |store| {
            store.report_bad_body(&record, &reason);
            Ok(())
        });
        if let Err(error) = reported.await {
            tracing::warn!(%error, "bad_body_not_reported");
        }
    }
}

/// The bytes of a chunk, which begins at `start` of the file, that lie within the range.
fn part_of(chunk: &Bytes, start: u64, range: &Range<u64>) -> Bytes {
    let from = usize::try_from(range.start.saturating_sub(start)).unwrap_or(usize::MAX).min(chunk.len());
    let to = usize::try_from(range.end.saturating_sub(start)).unwrap_or(usize::MAX).min(chunk.len());
    chunk.slice(from..to.max(from))
}

/// Reads until `want` bytes are there or the file ends.
fn read_at(file: &File, offset: u64, want: u64, spares: &Spares) -> std::io::Result<Bytes> {
    let want = usize::try_from(want).unwrap_or(0);
    let mut buffer = spares.take();
    buffer.reserve_exact(want);
    while buffer.len() < want {
        let from = offset.saturating_add(buffer.len() as u64);
        // The memory may have room for more than is asked for.
        match rustix::io::pread(file, spare_capacity(&mut buffer), from) {
            Ok(0) => break,
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    buffer.truncate(want);
    Ok(spares.lend(buffer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_cut_out_of_each_chunk_it_touches() {
        let chunk = Bytes::from_static(b"0123456789");
        assert_eq!(part_of(&chunk, 100, &(0..1000)), chunk);
        assert_eq!(part_of(&chunk, 100, &(103..105)), &b"34"[..]);
        assert_eq!(part_of(&chunk, 100, &(0..102)), &b"01"[..]);
        assert_eq!(part_of(&chunk, 100, &(108..2000)), &b"89"[..]);
    }

    #[test]
    fn a_chunk_is_filled_where_the_one_before_lay_and_shows_nothing_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("body");
        std::fs::write(&path, b"0123456789abcde").unwrap();
        let (file, spares) = (File::open(&path).unwrap(), Spares::default());
        let chunks: Vec<Vec<u8>> = [(0, 8), (8, 4), (12, 8), (0, 2), (20, 4)]
            .map(|(offset, want)| read_at(&file, offset, want, &spares).unwrap().to_vec())
            .to_vec();
        assert_eq!(chunks, [&b"01234567"[..], b"89ab", b"cde", b"01", b""]);
        assert_eq!(spares.0.lock().unwrap().len(), 1, "each was sent before the next one was read");
        let held: Vec<Bytes> = (0..4).map(|at| read_at(&file, at, 4, &spares).unwrap()).collect();
        assert_eq!(held.concat(), b"0123123423453456");
        drop(held);
        assert_eq!(spares.0.lock().unwrap().len(), SPARE_CHUNKS_MAX);
    }
}
