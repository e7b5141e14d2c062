//! The binary form of a feed page between kura nodes: length-prefixed frames with an explicit end.
//!
//! How it works: a page is `header (row | tombstone)* end`. Each frame is a `u32` length of what follows, a type byte,
//! a status byte and a payload; all integers are little-endian. A reader skips types it does not know.
//!
//! | type | payload |
//! |---|---|
//! | 1 header | JSON, see [`FeedHeader`] |
//! | 2 row | `u32` length of the record, the record in its wire form, then nothing, or 32 bytes BLAKE3 and the body |
//! | 3 tombstone | `u64` sequence number, `u64` version in ms, the namespace in UTF-8 |
//! | 4 end | `u64` number of row and tombstone frames before it |
//!
//! Invariants: lengths are checked before anything is read or allocated by them; a page without its end frame, or
//! whose end frame counts differently, is an error, so a cut stream is never taken for a short page.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::core::base::ids::{Digest, Epoch, InstanceId, Seq, StoreId};
use crate::core::base::limits::NAMESPACE_BYTES_MAX;

/// The version of this form.
pub const FEED_VERSION: u32 = 1;

/// Largest record in its wire form: names, attributes and room for the fields of later versions.
pub const RECORD_BYTES_MAX: usize = 64 << 10;

/// Content type of a feed page.
pub const FEED_CONTENT_TYPE: &str = "application/vnd.kura.feed";

const TYPE_HEADER: u8 = 1;
const TYPE_ROW: u8 = 2;
const TYPE_TOMBSTONE: u8 = 3;
const TYPE_END: u8 = 4;

/// How the sender fared with what a frame names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameStatus {
    /// Here it is.
    Ok,
    /// A newer version took its place.
    Superseded,
    /// It was evicted.
    Evicted,
    /// Its body proved bad.
    Corrupt,
    /// Come back later.
    Busy,
    /// A status of a later version; the frame is good for nothing but its position.
    Other(u8),
}

impl FrameStatus {
    pub(super) fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Superseded => 1,
            Self::Evicted => 2,
            Self::Corrupt => 3,
            Self::Busy => 4,
            Self::Other(code) => code,
        }
    }

    pub(super) fn of(code: u8) -> Self {
        match code {
            0 => Self::Ok,
            1 => Self::Superseded,
            2 => Self::Evicted,
            3 => Self::Corrupt,
            4 => Self::Busy,
            other => Self::Other(other),
        }
    }
}

/// What a page says of itself. Fields are only added.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct FeedHeader {
    /// [`FEED_VERSION`] of the sender.
    pub version: u32,
    /// Whose log this is.
    pub store_id: StoreId,
    /// Which run of the process answered.
    pub instance_id: InstanceId,
    /// The epoch the sequence numbers belong to.
    pub epoch: Epoch,
    /// The newest row.
    pub head_seq: Seq,
    /// Where this page began: the asked position, or less if that was clamped to the end of its epoch.
    pub after: Seq,
    /// Where the next page begins.
    pub next: Seq,
    /// Replicated versions at or below this were evicted here, Unix milliseconds.
    #[serde(default)]
    pub evicted_floor_ms: u64,
    /// The sender's wall clock, Unix milliseconds.
    pub now_ms: u64,
    /// The order of the rows.
    #[serde(default, skip_serializing_if = "FeedOrder::is_seq")]
    pub order: FeedOrder,
    /// In the order of versions: where the next page begins; absent at the end of the listing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<String>,
}

/// The order of a page's rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FeedOrder {
    /// By sequence number, rising: artifacts and tombstones.
    #[default]
    Seq,
    /// By version, falling: artifacts only.
    Version,
}

impl FeedOrder {
    fn is_seq(&self) -> bool {
        *self == Self::Seq
    }
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// First.
    Header(FeedHeader),
    /// An artifact in its record's wire form, with its body if that rides along.
    Row {
        /// How the sender fared.
        status: FrameStatus,
        /// The record in its wire form.
        record: Bytes,
        /// The body; it is yet to be checked against the digest in its record.
        body: Option<Bytes>,
    },
    /// A deleted namespace.
    Tombstone {
        /// Its row.
        seq: Seq,
        /// Everything at or below this is deleted.
        version_ms: u64,
        /// Which one.
        namespace: String,
    },
    /// Last: how many rows and tombstones came before it. On the wire it also carries the BLAKE3 of every byte of the
    /// page before it, because a record that was changed on the way would be committed as it came.
    End {
        /// Rows and tombstones.
        rows: u64,
    },
}

/// Why a page does not decode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The bytes end inside a frame or before the end frame.
    #[error("the feed page was cut")]
    Cut,
    /// A frame that cannot be what it says it is.
    #[error("a malformed {0} frame in the feed page")]
    Malformed(&'static str),
    /// The page is of a version this binary does not read.
    #[error("feed version {0} is not supported")]
    Version(u32),
    /// The end frame counts other than what came.
    #[error("the feed page says {said} rows and holds {held}")]
    Count {
        /// By the end frame.
        said: u64,
        /// Really.
        held: u64,
    },
    /// The page has another digest than its end frame says.
    #[error("the feed page does not match its digest")]
    PageDigest,
}

/// Appends a frame to its page, which `into` holds from its first byte on.
pub fn encode(frame: &Frame, into: &mut BytesMut) {
    let mut payload = BytesMut::new();
    let (kind, status) = match frame {
        Frame::Header(header) => {
            // A struct of numbers and strings always serializes.
            payload.put_slice(&serde_json::to_vec(header).unwrap_or_default());
            (TYPE_HEADER, FrameStatus::Ok)
        }
        Frame::Row { status, record, body } => {
            let digest = body.as_ref().map(|body| Digest::of(body)).unwrap_or_default();
            return encode_row(*status, record, body.as_ref().map(|body| (&**body, digest)), into);
        }
        Frame::Tombstone { seq, version_ms, namespace } => {
            payload.put_u64_le(seq.0);
            payload.put_u64_le(*version_ms);
            payload.put_slice(namespace.as_bytes());
            (TYPE_TOMBSTONE, FrameStatus::Ok)
        }
        Frame::End { rows } => {
            payload.put_u64_le(*rows);
            payload.put_slice(Digest::of(into).as_bytes());
            (TYPE_END, FrameStatus::Ok)
        }
    };
    into.put_u32_le(length32(payload.len() + 2));
    into.put_u8(kind);
    into.put_u8(status.code());
    into.put_slice(&payload);
}

/// Appends a row whose body was checked against this digest.
pub fn encode_row(status: FrameStatus, record: &[u8], body: Option<(&[u8], Digest)>, into: &mut BytesMut) {
    let body_length = body.map_or(0, |(body, _)| Digest::LEN + body.len());
    into.put_u32_le(length32(2 + 4 + record.len() + body_length));
    into.put_u8(TYPE_ROW);
    into.put_u8(status.code());
    into.put_u32_le(length32(record.len()));
    into.put_slice(record);
    if let Some((body, digest)) = body {
        into.put_slice(digest.as_bytes());
        into.put_slice(body);
    }
}

/// Pages are bounded far below 4 GiB, so this never saturates.
fn length32(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// A decoded page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedPageFrames {
    /// What it says of itself.
    pub header: FeedHeader,
    /// Rows and tombstones, in order.
    pub rows: Vec<Frame>,
}

/// Decodes a whole page. The caller bounds its bytes before reading them.
pub fn decode_page(page: Bytes) -> Result<FeedPageFrames, FrameError> {
    let mut bytes = page.clone();
    let Some(Frame::Header(header)) = next_frame(&page, &mut bytes)? else {
        return Err(FrameError::Malformed("header"));
    };
    if header.version != FEED_VERSION {
        return Err(FrameError::Version(header.version));
    }
    let mut rows = Vec::new();
    loop {
        match next_frame(&page, &mut bytes)? {
            None => {}
            Some(Frame::End { rows: said }) => return end_page(header, rows, said),
            Some(Frame::Header(_)) => return Err(FrameError::Malformed("header")),
            Some(row) => rows.push(row),
        }
    }
}

fn end_page(header: FeedHeader, rows: Vec<Frame>, said: u64) -> Result<FeedPageFrames, FrameError> {
    let held = u64::try_from(rows.len()).unwrap_or(u64::MAX);
    if said == held { Ok(FeedPageFrames { header, rows }) } else { Err(FrameError::Count { said, held }) }
}

/// The next frame of a page, or `None` for one of an unknown type. `bytes` is what is left of the page.
fn next_frame(page: &Bytes, bytes: &mut Bytes) -> Result<Option<Frame>, FrameError> {
    let before = page.get(..page.len().saturating_sub(bytes.len())).unwrap_or_default();
    let length = bytes.try_get_u32_le().map_err(|_| FrameError::Cut)? as usize;
    if length < 2 {
        return Err(FrameError::Malformed("short"));
    }
    if bytes.len() < length {
        return Err(FrameError::Cut);
    }
    let mut payload = bytes.split_to(length);
    let (kind, status) = (payload.get_u8(), FrameStatus::of(payload.get_u8()));
    match kind {
        TYPE_HEADER => decode_header(&payload).map(Some),
        TYPE_ROW => decode_row(payload, status).map(Some),
        TYPE_TOMBSTONE => decode_tombstone(payload).map(Some),
        TYPE_END => decode_end(payload, before).map(Some),
        _ => Ok(None),
    }
}

/// What stands behind the digest belongs to later versions.
fn decode_end(mut payload: Bytes, before: &[u8]) -> Result<Frame, FrameError> {
    let malformed = FrameError::Malformed("end");
    let Ok(rows) = payload.try_get_u64_le() else { return Err(malformed) };
    let digest = payload.get(..Digest::LEN).ok_or(malformed)?;
    if Digest::of(before).as_bytes().as_slice() == digest {
        Ok(Frame::End { rows })
    } else {
        Err(FrameError::PageDigest)
    }
}

fn decode_header(payload: &[u8]) -> Result<Frame, FrameError> {
    serde_json::from_slice(payload).map(Frame::Header).map_err(|_| FrameError::Malformed("header"))
}

fn decode_row(mut payload: Bytes, status: FrameStatus) -> Result<Frame, FrameError> {
    let malformed = || FrameError::Malformed("row");
    let length = payload.try_get_u32_le().map_err(|_| malformed())? as usize;
    if length > RECORD_BYTES_MAX || length > payload.len() {
        return Err(malformed());
    }
    let record = payload.split_to(length);
    if payload.is_empty() {
        return Ok(Frame::Row { status, record, body: None });
    }
    if payload.len() < Digest::LEN {
        return Err(malformed());
    }
    // The page's digest covers the body, and whoever commits it checks it against its record.
    payload.advance(Digest::LEN);
    Ok(Frame::Row { status, record, body: Some(payload) })
}

fn decode_tombstone(mut payload: Bytes) -> Result<Frame, FrameError> {
    let malformed = || FrameError::Malformed("tombstone");
    let seq = Seq(payload.try_get_u64_le().map_err(|_| malformed())?);
    let version_ms = payload.try_get_u64_le().map_err(|_| malformed())?;
    if payload.len() > NAMESPACE_BYTES_MAX {
        return Err(malformed());
    }
    let namespace = String::from_utf8(payload.to_vec()).map_err(|_| malformed())?;
    Ok(Frame::Tombstone { seq, version_ms, namespace })
}

#[cfg(test)]
#[path = "feed_frames_tests.rs"]
mod tests;
