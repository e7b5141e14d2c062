//! Answers that are not what the peer said: changed bits, wrong numbers, cursors that go nowhere.

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use http::header::CONTENT_LENGTH;
use kura::core::base::ids::{Digest, Seq};
use kura::core::mesh::bulk_frames::{BulkDecoder, BulkEncoder, BulkHeader, EncodedItems};
use kura::core::mesh::feed_frames::{FEED_CONTENT_TYPE, FeedPageFrames, Frame, decode_page, encode};
use kura::core::mesh::transport::{PeerResponse, TransportError};
use kura::core::mesh::wire::{RECORD_HEADER, StatusReply};
use kura::core::store::record::Record;

/// Where many small bodies are asked for at once.
pub const BULK: &str = "/_internal/bulk";

/// What a peer says wrongly. Each is applied to the answers it fits; others pass as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// One bit of an answer's body arrives changed, at this offset modulo its length.
    Flip(u64),
    /// The same to a page of the feed that has rows.
    FlipRows(u64),
    /// The same to the first record of a page that has its body with it, at this offset modulo the record's length: what
    /// is committed as it came, where a record without its body is asked for once more.
    FlipRiding(u64),
    /// A digit of a JSON listing arrives as another one, this one of its digits modulo their number.
    Digit(u64),
    /// A listing's cursor stays where it was, or goes back.
    Cursor(CursorLie),
    /// Sizes of artifacts are off by this much, in listings and beside bodies.
    Sizes(u64),
    /// Digests of artifacts are others, in listings and beside bodies.
    Digests(u8),
    /// Counts and heads are off by this much: of the status, and of a listing's end.
    Counts(u64),
    /// A body is another one of the same length.
    Body(u8),
    /// The announced length is off by this much.
    Length(u64),
}

impl Lie {
    /// Whether it is one of the network, which nobody vouches for: it does not fit the digest beside it.
    pub fn is_accident(self) -> bool {
        matches!(self, Self::Flip(_) | Self::FlipRows(_) | Self::FlipRiding(_) | Self::Digit(_))
    }
}

/// How a cursor is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CursorLie {
    Stays,
    GoesBack,
}

/// The path without its query.
pub fn path_of(path_and_query: &str) -> &str {
    path_and_query.split('?').next().unwrap_or_default()
}

/// Tells the lie, and whether there was anything to lie about. An answer that cannot be read to its end is passed on as
/// far as it came.
pub async fn told(lie: Lie, path: &str, response: PeerResponse) -> (PeerResponse, bool) {
    let PeerResponse { status, mut headers, mut body } = response;
    let (mut whole, mut broken) = (BytesMut::new(), None);
    while let Some(chunk) = body.next().await {
        match chunk {
            Ok(chunk) => whole.extend_from_slice(&chunk),
            Err(error) => broken = Some(error),
        }
    }
    let mut whole = whole.freeze();
    let as_it_was = (whole.clone(), headers.clone());
    if status.is_success() {
        let is_feed = headers.get("content-type").is_some_and(|kind| kind == FEED_CONTENT_TYPE);
        whole = match lie {
            Lie::Flip(_) | Lie::FlipRows(_) if is_feed && is_empty_page(&whole) => whole,
            Lie::Flip(offset) | Lie::FlipRows(offset) => flipped(&whole, offset),
            Lie::FlipRiding(offset) if is_feed => with_flipped_record(&whole, offset).unwrap_or(whole),
            Lie::Digit(number) => with_other_digit(&whole, number),
            Lie::Body(byte) if headers.contains_key(RECORD_HEADER) => vec![byte; whole.len()].into(),
            _ if is_feed => lying_page(lie, &whole).unwrap_or(whole),
            _ if path == BULK => lying_bulk(lie, &whole).unwrap_or(whole),
            Lie::Cursor(_) if path.ends_with("/namespace_tombstones") => lying_tombstones(&whole).unwrap_or(whole),
            Lie::Counts(by) if path.ends_with("/status") => lying_status(by, &whole).unwrap_or(whole),
            _ => whole,
        };
        lying_headers(lie, &mut headers);
    }
    let was_told = (&whole, headers.get(RECORD_HEADER), headers.get(CONTENT_LENGTH))
        != (&as_it_was.0, as_it_was.1.get(RECORD_HEADER), as_it_was.1.get(CONTENT_LENGTH));
    let headers = if was_told { headers } else { as_it_was.1 };
    let rest: Option<Result<Bytes, TransportError>> = broken.map(Err);
    let pieces = std::iter::once(Ok(whole)).chain(rest);
    (PeerResponse { status, headers, body: futures_util::stream::iter(pieces).boxed() }, was_told)
}

fn is_empty_page(whole: &Bytes) -> bool {
    decode_page(whole.clone()).is_ok_and(|page| page.rows.is_empty())
}

/// Still a digit, so that the whole can still be read.
fn with_other_digit(whole: &Bytes, number: u64) -> Bytes {
    let mut bytes = whole.to_vec();
    let mut digits: Vec<&mut u8> = bytes.iter_mut().filter(|byte| byte.is_ascii_digit()).collect();
    let count = u64::try_from(digits.len()).unwrap_or(1).max(1);
    if let Some(digit) = digits.get_mut(usize::try_from(number % count).unwrap_or(0)) {
        **digit ^= 1;
    }
    bytes.into()
}

fn flipped(whole: &Bytes, offset: u64) -> Bytes {
    let mut bytes = whole.to_vec();
    let length = u64::try_from(bytes.len()).unwrap_or(1).max(1);
    if let Some(byte) = bytes.get_mut(usize::try_from(offset % length).unwrap_or(0)) {
        *byte ^= 1 << (offset % 8);
    }
    bytes.into()
}

fn with_flipped_record(whole: &Bytes, offset: u64) -> Option<Bytes> {
    let rows = decode_page(whole.clone()).ok()?.rows;
    let riding = rows.into_iter().find_map(|row| match row {
        Frame::Row { record, body: Some(_), .. } => Some(record),
        _ => None,
    });
    let record = riding?;
    let at = whole.windows(record.len()).position(|window| *window == *record)?;
    let length = u64::try_from(record.len()).ok()?;
    let mut bytes = whole.to_vec();
    *bytes.get_mut(at + usize::try_from(offset % length).ok()?)? ^= 1 << (offset / length % 8);
    Some(bytes.into())
}

fn lying_record(lie: Lie, record: &mut Record) {
    match lie {
        Lie::Sizes(by) => (record.size, record.stored_size) = (record.size ^ by, record.stored_size ^ by),
        Lie::Digests(by) => record.digest = Digest([by; 32]),
        _ => {}
    }
}

/// A page that is in itself whole: its end frame has the digest of what it says.
fn lying_page(lie: Lie, whole: &Bytes) -> Option<Bytes> {
    let FeedPageFrames { mut header, rows } = decode_page(whole.clone()).ok()?;
    match lie {
        Lie::Cursor(CursorLie::Stays) => header.next = header.after,
        Lie::Cursor(CursorLie::GoesBack) => header.next = Seq(header.after.0.saturating_sub(1)),
        Lie::Counts(by) => header.head_seq = Seq(header.head_seq.0.saturating_add(by)),
        _ => {}
    }
    let mut page = BytesMut::new();
    encode(&Frame::Header(header), &mut page);
    let count = u64::try_from(rows.len()).ok()?;
    for mut row in rows {
        if let Frame::Row { record, body, .. } = &mut row {
            let mut lying = Record::from_bytes(record).ok()?;
            lying_record(lie, &mut lying);
            *record = lying.to_wire_bytes().into();
            if let (Lie::Body(byte), Some(body)) = (lie, body) {
                *body = vec![byte; body.len()].into();
            }
        }
        encode(&row, &mut page);
    }
    encode(&Frame::End { rows: count }, &mut page);
    Some(page.freeze())
}

/// An answer that is in itself whole, too.
fn lying_bulk(lie: Lie, whole: &Bytes) -> Option<Bytes> {
    let length = usize::try_from(u32::from_le_bytes(*whole.first_chunk()?)).ok()?;
    let header: BulkHeader = serde_json::from_slice(whole.get(6..(length + 4).checked_sub(Digest::LEN)?)?).ok()?;
    let mut decoder = BulkDecoder::new();
    decoder.push(whole);
    let (mut encoder, mut answer) = (BulkEncoder::default(), BytesMut::new());
    answer.extend_from_slice(&encoder.header(&header));
    while let Some(item) = decoder.next_item().ok()? {
        let mut record = Record::from_bytes(&item.record).ok();
        record.iter_mut().for_each(|record| lying_record(lie, record));
        let record = record.map_or(item.record, |record| record.to_wire_bytes().into());
        let body = match lie {
            Lie::Body(byte) => vec![byte; item.body.len()].into(),
            _ => item.body,
        };
        let mut items = EncodedItems::default();
        items.push(item.place, item.status, &record, &body);
        answer.extend_from_slice(&encoder.items(items));
    }
    answer.extend_from_slice(&encoder.end());
    Some(answer.freeze())
}

fn lying_tombstones(whole: &Bytes) -> Option<Bytes> {
    let mut page: serde_json::Value = serde_json::from_slice(whole).ok()?;
    page["next_after"] = serde_json::Value::String(String::new());
    serde_json::to_vec(&page).ok().map(Bytes::from)
}

fn lying_status(by: u64, whole: &Bytes) -> Option<Bytes> {
    let mut status: StatusReply = serde_json::from_slice(whole).ok()?;
    if let Some(kura) = &mut status.kura {
        kura.artifacts = kura.artifacts.saturating_add(by);
        kura.body_bytes = kura.body_bytes.saturating_add(by);
        kura.head_seq = kura.head_seq.map(|head| Seq(head.0.saturating_add(by)));
    }
    serde_json::to_vec(&status).ok().map(Bytes::from)
}

fn lying_headers(lie: Lie, headers: &mut http::HeaderMap) {
    // A lie is told knowingly: it has the digest of what it says. A changed bit has not.
    if !lie.is_accident() {
        headers.remove(kura::core::mesh::wire::PAGE_DIGEST_HEADER);
    }
    let number = |headers: &http::HeaderMap| headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse::<u64>().ok();
    match lie {
        Lie::Length(by) => {
            if let Some(length) = number(headers) {
                headers.insert(CONTENT_LENGTH, (length ^ by).into());
            }
        }
        Lie::Sizes(_) | Lie::Digests(_) => {
            let told = headers.get(RECORD_HEADER).and_then(|value| lying_record_header(lie, value));
            told.map(|value| headers.insert(RECORD_HEADER, value));
        }
        _ => {}
    }
}

fn lying_record_header(lie: Lie, value: &http::HeaderValue) -> Option<http::HeaderValue> {
    let mut record = Record::from_bytes(&hex::decode(value.as_bytes()).ok()?).ok()?;
    lying_record(lie, &mut record);
    hex::encode(record.to_wire_bytes()).parse().ok()
}

/// How a node of the seed era answers: its status names no store, its bodies come without their record, and it has no feed.
pub async fn as_seed_era(path: &str, mut response: PeerResponse) -> PeerResponse {
    for header in [RECORD_HEADER, "etag", "accept-ranges", kura::core::mesh::wire::PAGE_DIGEST_HEADER] {
        response.headers.remove(header);
    }
    if !path.ends_with("/status") || !response.status.is_success() {
        return response;
    }
    let mut whole = BytesMut::new();
    while let Some(Ok(chunk)) = response.body.next().await {
        whole.extend_from_slice(&chunk);
    }
    let seed = serde_json::from_slice::<StatusReply>(&whole).map(|status| StatusReply { kura: None, ..status });
    let bytes = seed.ok().and_then(|seed| serde_json::to_vec(&seed).ok()).map_or(whole.freeze(), Bytes::from);
    PeerResponse { body: futures_util::stream::iter([Ok(bytes)]).boxed(), ..response }
}
