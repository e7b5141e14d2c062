//! Many bodies in one answer, between kura nodes: what is asked for, and the framed stream that answers it.
//!
//! How it works: the request is JSON and names (id, version, digest) of each item. The answer is `header item* end`, an
//! item for each one asked for, in the order of the request. Each frame is a `u32` length of what follows, a type byte,
//! a status byte, a payload, and the BLAKE3 of type, status and payload; all integers are little-endian. A reader skips
//! types it does not know.
//!
//! | type | payload |
//! |---|---|
//! | 1 header | JSON, see [`BulkHeader`] |
//! | 2 item | `u32` place in the request, `u32` length of the record, the record in its wire form, the body |
//! | 3 end | `u64` number of items, `u64` bytes of their bodies, BLAKE3 of the digests of all frames before it, in order |
//!
//! Invariants: a frame is given out only once its own digest proved right, so what arrived before a stream was cut is
//! good and can be kept. Lengths are checked before anything is gathered by them: a reader holds at most one frame and
//! the chunk that ended it. A stream without its end frame, or whose end frame counts otherwise, is an error.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::feed_frames::{FrameStatus, RECORD_BYTES_MAX};
use crate::core::base::ids::{ArtifactId, Digest, StoreId, Version};

/// The version of this form.
pub const BULK_VERSION: u32 = 1;

/// Content type of an answer.
pub const BULK_CONTENT_TYPE: &str = "application/vnd.kura.bulk";

/// Most items in a request: as many as one group of the committer takes.
pub const BULK_ITEMS_MAX: usize = 256;

/// Largest body that travels so; a larger one is worth a request of its own, which can be resumed.
pub const BULK_BODY_BYTES_MAX: u64 = 1 << 20;

/// Bytes of bodies in one answer; what comes behind them is named without its body.
pub const BULK_ANSWER_BYTES_MAX: u64 = 16 << 20;

/// Largest request: [`BULK_ITEMS_MAX`] items with room for fields of later versions.
pub const BULK_REQUEST_BYTES_MAX: usize = 256 << 10;

/// Type and status.
const HEAD_BYTES: usize = 2;

/// Place and length of the record in an item.
const ITEM_HEAD_BYTES: usize = 8;

/// Longest frame behind its length; those of later versions keep to it.
const FRAME_BYTES_MAX: usize =
    HEAD_BYTES + ITEM_HEAD_BYTES + RECORD_BYTES_MAX + BULK_BODY_BYTES_MAX as usize + Digest::LEN;

const TYPE_HEADER: u8 = 1;
const TYPE_ITEM: u8 = 2;
const TYPE_END: u8 = 3;

/// One artifact that is asked for, in this version or a newer one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct BulkItem {
    /// Which artifact.
    pub id: ArtifactId,
    /// The version that was listed, Unix milliseconds.
    pub version_ms: u64,
    /// Its second part.
    #[serde(default)]
    pub logical: u16,
    /// Its digest.
    pub digest: Digest,
}

impl BulkItem {
    /// The artifact in this version.
    pub fn new(id: ArtifactId, version: Version) -> Self {
        Self { id, version_ms: version.version_ms, logical: version.logical, digest: version.digest }
    }

    /// The version that was listed.
    pub fn version(&self) -> Version {
        Version { version_ms: self.version_ms, logical: self.logical, digest: self.digest }
    }
}

/// What is asked for. Fields are only added.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct BulkRequest {
    /// At most [`BULK_ITEMS_MAX`].
    pub items: Vec<BulkItem>,
}

/// What an answer says of itself. Fields are only added.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct BulkHeader {
    /// [`BULK_VERSION`] of the sender.
    pub version: u32,
    /// Whose bodies these are.
    pub store_id: StoreId,
}

/// One item of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BulkAnswer {
    /// Its place in the request.
    pub place: u32,
    /// How the sender fared; `Superseded` comes with the newer record, and its body if that is small enough.
    pub status: FrameStatus,
    /// The record in its wire form; empty where the sender has none.
    pub record: Bytes,
    /// The body; empty where it is left out, because it is large or the answer is long enough.
    pub body: Bytes,
}

/// Why an answer does not decode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BulkError {
    /// The bytes end before the end frame.
    #[error("the answer was cut")]
    Cut,
    /// A frame is longer than any may be.
    #[error("a frame of {0} bytes is too long")]
    TooLong(usize),
    /// A frame that cannot be what it says it is.
    #[error("a malformed {0} frame")]
    Malformed(&'static str),
    /// A frame has another digest than it ends with.
    #[error("a frame does not match its digest")]
    Digest,
    /// The answer is of a version this binary does not read.
    #[error("version {0} is not supported")]
    Version(u32),
    /// The end frame counts other than what came.
    #[error("the end frame does not match what came before it")]
    Count,
}

/// What the end frame says of all frames before it.
#[derive(Debug, Clone, Default)]
struct Tally {
    items: u64,
    body_bytes: u64,
    digests: blake3::Hasher,
}

impl Tally {
    fn add(&mut self, digest: &Digest, body: Option<usize>) {
        self.digests.update(digest.as_bytes());
        if let Some(length) = body {
            self.items = self.items.saturating_add(1);
            self.body_bytes = self.body_bytes.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
        }
    }

    fn payload(&self) -> Vec<u8> {
        let (items, bytes) = (self.items.to_le_bytes(), self.body_bytes.to_le_bytes());
        [&items[..], &bytes[..], self.digests.finalize().as_bytes()].concat()
    }
}

/// Encoded items, which may be made apart from each other and are sent in their order.
#[derive(Debug, Default)]
pub struct EncodedItems {
    bytes: BytesMut,
    frames: Vec<(Digest, usize)>,
}

impl EncodedItems {
    /// Adds an item.
    pub fn push(&mut self, place: u32, status: FrameStatus, record: &[u8], body: &[u8]) {
        let head = [place.to_le_bytes(), length32(record.len()).to_le_bytes()].concat();
        let digest = put_frame(TYPE_ITEM, status, &[&head, record, body], &mut self.bytes);
        self.frames.push((digest, body.len()));
    }
}

/// Makes an answer out of encoded items.
#[derive(Debug, Default)]
pub struct BulkEncoder {
    tally: Tally,
}

impl BulkEncoder {
    /// The first frame.
    pub fn header(&mut self, header: &BulkHeader) -> Bytes {
        let mut bytes = BytesMut::new();
        // A struct of a number and an id always serializes.
        let json = serde_json::to_vec(header).unwrap_or_default();
        let digest = put_frame(TYPE_HEADER, FrameStatus::Ok, &[&json], &mut bytes);
        self.tally.add(&digest, None);
        bytes.freeze()
    }

    /// The next items.
    pub fn items(&mut self, items: EncodedItems) -> Bytes {
        items.frames.iter().for_each(|(digest, body)| self.tally.add(digest, Some(*body)));
        items.bytes.freeze()
    }

    /// The last frame.
    pub fn end(&self) -> Bytes {
        let mut bytes = BytesMut::new();
        put_frame(TYPE_END, FrameStatus::Ok, &[&self.tally.payload()], &mut bytes);
        bytes.freeze()
    }
}

fn put_frame(kind: u8, status: FrameStatus, payload: &[&[u8]], into: &mut BytesMut) -> Digest {
    let length = HEAD_BYTES + payload.iter().map(|part| part.len()).sum::<usize>() + Digest::LEN;
    into.reserve(4 + length);
    into.put_u32_le(length32(length));
    let start = into.len();
    into.put_u8(kind);
    into.put_u8(status.code());
    payload.iter().for_each(|part| into.put_slice(part));
    let digest = Digest::of(into.get(start..).unwrap_or_default());
    into.put_slice(digest.as_bytes());
    digest
}

/// Frames are bounded far below 4 GiB, so this never saturates.
fn length32(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// Where a decoder is in its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Place {
    #[default]
    Header,
    Items,
    End,
}

/// Decodes an answer as it arrives.
#[derive(Debug, Default)]
pub struct BulkDecoder {
    buffer: BytesMut,
    place: Place,
    tally: Tally,
}

impl BulkDecoder {
    /// A decoder at the beginning of an answer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a chunk. Call [`Self::next_item`] until it has nothing more before the next one.
    pub fn push(&mut self, chunk: &[u8]) {
        self.buffer.extend_from_slice(chunk);
    }

    /// The next item, or `None` if more bytes are needed or the end was read.
    pub fn next_item(&mut self) -> Result<Option<BulkAnswer>, BulkError> {
        while self.place != Place::End {
            let Some(frame) = self.take_frame()? else { return Ok(None) };
            if let Some(item) = self.take_in(frame)? {
                return Ok(Some(item));
            }
        }
        Ok(None)
    }

    /// Whether the end frame was read. What follows it belongs to later versions.
    pub fn is_ended(&self) -> bool {
        self.place == Place::End
    }

    /// Whether everything came.
    pub fn finish(self) -> Result<(), BulkError> {
        if self.is_ended() { Ok(()) } else { Err(BulkError::Cut) }
    }

    /// Type, status, payload and digest of the next frame, once it is here whole.
    fn take_frame(&mut self) -> Result<Option<Bytes>, BulkError> {
        let Some(Ok(length)) = self.buffer.get(..4).map(<[u8; 4]>::try_from) else { return Ok(None) };
        let length = u32::from_le_bytes(length) as usize;
        if length > FRAME_BYTES_MAX {
            return Err(BulkError::TooLong(length));
        }
        if length < HEAD_BYTES + Digest::LEN {
            return Err(BulkError::Malformed("short"));
        }
        if self.buffer.len() < 4 + length {
            return Ok(None);
        }
        self.buffer.advance(4);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }

    fn take_in(&mut self, mut frame: Bytes) -> Result<Option<BulkAnswer>, BulkError> {
        let digest = frame.split_off(frame.len().saturating_sub(Digest::LEN));
        let digest = Digest::from_slice(&digest).filter(|digest| *digest == Digest::of(&frame));
        let digest = digest.ok_or(BulkError::Digest)?;
        let (kind, status) = (frame.get_u8(), FrameStatus::of(frame.get_u8()));
        if (kind == TYPE_HEADER) != (self.place == Place::Header) {
            return Err(BulkError::Malformed("header"));
        }
        match kind {
            TYPE_HEADER => {
                self.place = Place::Items;
                self.tally.add(&digest, None);
                check_header(&frame).map(|()| None)
            }
            TYPE_ITEM => {
                let item = decode_item(frame, status)?;
                self.tally.add(&digest, Some(item.body.len()));
                Ok(Some(item))
            }
            TYPE_END => {
                self.place = Place::End;
                let payload = self.tally.payload();
                // What stands behind it belongs to later versions.
                if frame.get(..payload.len()) == Some(payload.as_slice()) { Ok(None) } else { Err(BulkError::Count) }
            }
            _ => {
                self.tally.add(&digest, None);
                Ok(None)
            }
        }
    }
}

fn check_header(payload: &[u8]) -> Result<(), BulkError> {
    let header: BulkHeader = serde_json::from_slice(payload).map_err(|_| BulkError::Malformed("header"))?;
    if header.version == BULK_VERSION { Ok(()) } else { Err(BulkError::Version(header.version)) }
}

fn decode_item(mut payload: Bytes, status: FrameStatus) -> Result<BulkAnswer, BulkError> {
    let malformed = || BulkError::Malformed("item");
    let place = payload.try_get_u32_le().map_err(|_| malformed())?;
    let length = payload.try_get_u32_le().map_err(|_| malformed())? as usize;
    if length > RECORD_BYTES_MAX || length > payload.len() {
        return Err(malformed());
    }
    let record = payload.split_to(length);
    if payload.len() as u64 > BULK_BODY_BYTES_MAX {
        return Err(malformed());
    }
    Ok(BulkAnswer { place, status, record, body: payload })
}

/// Cuts a row of items into groups by their sizes: each of at most `items_max` items and, unless it is a single one,
/// `bytes_max` bytes.
pub fn group_by_size<T>(items: Vec<T>, size: impl Fn(&T) -> u64, items_max: usize, bytes_max: u64) -> Vec<Vec<T>> {
    let mut groups = Vec::new();
    let (mut group, mut bytes) = (Vec::new(), 0_u64);
    for item in items {
        let more = size(&item);
        if !group.is_empty() && (group.len() >= items_max || bytes.saturating_add(more) > bytes_max) {
            groups.push(std::mem::take(&mut group));
            bytes = 0;
        }
        bytes = bytes.saturating_add(more);
        group.push(item);
    }
    if !group.is_empty() {
        groups.push(group);
    }
    groups
}

#[cfg(test)]
#[path = "bulk_frames_tests.rs"]
mod tests;
