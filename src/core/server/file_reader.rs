//! Reads a body file for a response: in bounded chunks, verified on its first read.
//!
//! How it works: a file is read chunk by chunk, one chunk ahead of nobody: the connection asks, then the next one is
//! read. What lies in the page cache is copied on the spot (`RWF_NOWAIT` answers with less instead of waiting for the
//! disk); the rest is read on the executor. A file that was not verified in this process is hashed on the executor from
//! its first byte while it goes out, and the last chunk of what was asked is held back until the whole file proved good.
//!
//! Invariant: at most one chunk of [`READ_CHUNK_BYTES`] per response is being filled here. The memory of one that was
//! sent is filled again: fresh memory of that size comes from the system page by page, which takes as long as the copy.
//!
//! Failure: a short or mismatching file is reported to the store, which withdraws it; the stream ends with an error. An
//! I/O error ends it without withdrawing.

use std::fs::File;
use std::io::IoSliceMut;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream;
use rustix::io::{Errno, ReadWriteFlags};

use crate::core::base::executor::{self, StoreExecutor};
use crate::core::base::ids::Digest;
use crate::core::bootstrap::read_through::ThroughError;
use crate::core::store::FileBody;
use crate::core::store::record::Record;
use crate::core::store::store_handle::StoreHandle;

/// Bytes read from a file at a time. Large enough that the hop to a thread is noise at gigabytes per second, small
/// enough that a thousand downloads, with a chunk to be filled and two to be sent each, hold less than a gigabyte.
pub const READ_CHUNK_BYTES: u64 = 256 << 10;

/// Sent chunks of a response kept for the next ones: while one is written the next is filled.
const SPARE_CHUNKS_MAX: usize = 2;

/// Memory of a response's chunks that were sent.
#[derive(Debug, Clone, Default)]
struct Spares(Arc<Mutex<Vec<Vec<u8>>>>);

impl Spares {
    /// Memory for a chunk, which may hold an earlier one: zeroing it each time would take as long as reading.
    fn take(&self, length: usize) -> Vec<u8> {
        let mut memory = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        if memory.len() < length {
            memory.resize(length, 0);
        }
        memory
    }

    /// The first bytes of it, those that were read; once they are sent their memory comes back.
    fn lend(&self, bytes: Vec<u8>, length: usize) -> Bytes {
        let length = length.min(bytes.len());
        Bytes::from_owner(Lent { bytes, spares: self.clone() }).slice(..length)
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
    /// Whether the page cache is asked first: not once its filesystem said that it cannot be.
    reads_at_hand: bool,
}

impl FileReader {
    /// Reads a range; the file is verified meanwhile unless it was.
    pub fn new(context: ReadContext, record: Box<Record>, body: FileBody, range: Range<u64>) -> Self {
        let (offset, hasher) = if body.verified { (range.start, None) } else { (0, Some(Box::default())) };
        let (file, length, spares, reads_at_hand) = (body.file, body.length, Spares::default(), hasher.is_none());
        Self { context, record, file, length, offset, hasher, range, spares, reads_at_hand }
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
        let mut chunk = Chunk::new(self.spares.take(usize::try_from(want).unwrap_or(0)), want);
        if self.reads_at_hand {
            self.reads_at_hand = chunk.read_at_hand(&self.file, offset);
        }
        let read = if chunk.is_whole() { Ok(chunk) } else { self.read_waiting(chunk, offset).await? };
        let chunk = read.map_err(|source| BodyError::Io { offset, source })?;
        let bytes = self.spares.lend(chunk.memory, chunk.filled);
        self.offset = self.offset.saturating_add(bytes.len() as u64);
        if (bytes.len() as u64) < want {
            let error = BodyError::Short { length: self.length, offset: self.offset };
            self.report(&error).await;
            return Err(error);
        }
        Ok(bytes)
    }

    /// Fills a chunk on the executor, where it may wait for the disk.
    async fn read_waiting(&mut self, mut chunk: Chunk, offset: u64) -> Result<std::io::Result<Chunk>, BodyError> {
        let (file, mut hasher) = (Arc::clone(&self.file), self.hasher.take());
        let job = move || {
            let read = chunk.read(&file, offset);
            if let (Ok(()), Some(hasher)) = (&read, hasher.as_mut()) {
                hasher.update(chunk.bytes());
            }
            (read.map(|()| chunk), hasher)
        };
        let (read, hasher) = executor::run(self.context.executor.as_ref(), job).await.map_err(|_| BodyError::Lost)?;
        self.hasher = hasher;
        Ok(read)
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

/// Memory that is being filled from a file.
struct Chunk {
    memory: Vec<u8>,
    want: usize,
    filled: usize,
}

impl Chunk {
    fn new(memory: Vec<u8>, want: u64) -> Self {
        let want = usize::try_from(want).unwrap_or(usize::MAX).min(memory.len());
        Self { memory, want, filled: 0 }
    }

    fn is_whole(&self) -> bool {
        self.filled >= self.want
    }

    fn bytes(&self) -> &[u8] {
        self.memory.get(..self.filled).unwrap_or_default()
    }

    fn rest(&mut self) -> &mut [u8] {
        self.memory.get_mut(self.filled..self.want).unwrap_or_default()
    }

    /// Takes what can be had without waiting. Whatever else there is to say about the file, the disk's errors too, the
    /// waiting read says. Returns whether it is worth asking again.
    fn read_at_hand(&mut self, file: &File, offset: u64) -> bool {
        let mut rest = [IoSliceMut::new(self.rest())];
        match rustix::io::preadv2(file, &mut rest, offset, ReadWriteFlags::NOWAIT) {
            Ok(count) => self.filled += count,
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => return false,
        }
        true
    }

    /// Reads until it is whole or the file ends.
    fn read(&mut self, file: &File, offset: u64) -> std::io::Result<()> {
        while !self.is_whole() {
            let from = offset.saturating_add(self.filled as u64);
            match rustix::io::pread(file, self.rest(), from) {
                Ok(0) => break,
                Ok(count) => self.filled += count,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
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
        let read_at = |offset, want: u64| {
            let mut chunk = Chunk::new(spares.take(want as usize), want);
            chunk.read(&file, offset).unwrap();
            spares.lend(chunk.memory, chunk.filled)
        };
        let chunks: Vec<Vec<u8>> =
            [(0, 8), (8, 4), (12, 8), (0, 2), (20, 4)].map(|(offset, want)| read_at(offset, want).to_vec()).to_vec();
        assert_eq!(chunks, [&b"01234567"[..], b"89ab", b"cde", b"01", b""]);
        assert_eq!(spares.0.lock().unwrap().len(), 1, "each was sent before the next one was read");
        let held: Vec<Bytes> = (0..4).map(|at| read_at(at, 4)).collect();
        assert_eq!(held.concat(), b"0123123423453456");
        drop(held);
        assert_eq!(spares.0.lock().unwrap().len(), SPARE_CHUNKS_MAX);
    }

    #[test]
    fn what_the_page_cache_has_is_taken_without_waiting_and_the_end_is_left_to_the_waiting_read() {
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, b"0123456789").unwrap();
        let mut chunk = Chunk::new(vec![b'x'; 8], 4);
        if !chunk.read_at_hand(&file, 8) {
            println!("this filesystem has no reads without waiting: nothing more to see");
            return;
        }
        assert_eq!((chunk.bytes(), chunk.is_whole()), (&b"89"[..], false), "it was just written");
        chunk.read(&file, 8).unwrap();
        assert_eq!((chunk.bytes(), chunk.is_whole()), (&b"89"[..], false), "nothing of what lay in the memory");
    }
}
