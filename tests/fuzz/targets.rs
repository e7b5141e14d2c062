//! The parsers of everything that comes from outside, each as a function over bytes that must come back.
//!
//! How it works: a target takes any bytes. It panics where the parser does, and where what was read is not what it may
//! be: beyond a limit, or something else once written and read again. `cargo test --test fuzz` runs each over its corpus
//! and over changed copies of that; `fuzz/` lets libFuzzer look for more (`make fuzz`).

use std::cell::RefCell;
use std::fs::File;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::PathBuf;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use kura::core::base::ids::Digest;
use kura::core::base::limits::{KEY_BYTES_MAX, NAMESPACE_BYTES_MAX};
use kura::core::config::{self, ConfigFile, Inputs, Machine, Variables};
use kura::core::data_dir::identity::Identity;
use kura::core::data_dir::layout::Layout;
use kura::core::data_dir::run_record::RunRecord;
use kura::core::mesh::bulk_frames::{BulkAnswer, BulkDecoder, BulkError, BulkRequest};
use kura::core::mesh::feed_frames::{Frame, decode_page};
use kura::core::mesh::wire;
use kura::core::server::public::range::{Conditions, Selection};
use kura::core::server::public::request::{Query, last_segment, segments};
use kura::core::staging::partials::PartialHeader;
use kura::core::store::action_result::{BLOBS_MAX, TREES_MAX, blobs_of_action_result, blobs_of_tree};
use kura::core::store::record::Record;
use kura::core::store::{footer, tombstone_log};

/// A parser under test.
pub type Target = fn(&[u8]);

/// Each target by its name, which is also that of its corpus.
pub const TARGETS: [(&str, Target); 13] = [
    ("bulk_answer", bulk_answer),
    ("feed_page", feed_page),
    ("manifest_page", manifest_page),
    ("tombstone_page", tombstone_page),
    ("peer_json", peer_json),
    ("query", query),
    ("range", range),
    ("settings", settings),
    ("record", record),
    ("footer", body_footer),
    ("data_dir", data_dir),
    ("action_result", action_result),
    ("multipart", super::multipart::multipart),
];

/// The tenant of the nodes that read.
const TENANT_ID: &str = "default";

/// An answer of many bodies reads the same however it is cut on the way.
fn bulk_answer(data: &[u8]) {
    let whole = read_answer(&[data]);
    let (first, rest) = data.split_at(data.len() / 3);
    assert_eq!(whole, read_answer(&[first, rest]));
    let pieces: Vec<&[u8]> = data.chunks(7).collect();
    assert_eq!(whole, read_answer(&pieces));
    for item in &whole.0 {
        assert!(item.record.len() + item.body.len() <= data.len());
        check_record(&item.record);
    }
}

fn read_answer(pieces: &[&[u8]]) -> (Vec<BulkAnswer>, Result<(), BulkError>) {
    let (mut decoder, mut items) = (BulkDecoder::new(), Vec::new());
    for piece in pieces {
        decoder.push(piece);
        loop {
            match decoder.next_item() {
                Ok(Some(item)) => items.push(item),
                Ok(None) => break,
                Err(error) => return (items, Err(error)),
            }
        }
    }
    (items, decoder.finish())
}

/// A page of the change log, by number or by version.
fn feed_page(data: &[u8]) {
    let Ok(page) = decode_page(Bytes::copy_from_slice(data)) else { return };
    for row in page.rows {
        match row {
            Frame::Row { record, body, .. } => {
                assert!(record.len() + body.map_or(0, |body| body.len()) <= data.len());
                check_record(&record);
            }
            Frame::Tombstone { namespace, .. } => assert!(namespace.len() <= data.len()),
            Frame::Header(_) | Frame::End { .. } => panic!("no row"),
        }
    }
}

/// A page of the seed era's listing: what is taken from it has a name within the limits.
fn manifest_page(data: &[u8]) {
    let Ok(listing) = wire::read_manifest_page(data, TENANT_ID) else { return };
    for record in listing.records {
        assert!(record.name.namespace.len() <= NAMESPACE_BYTES_MAX && record.name.key.len() <= KEY_BYTES_MAX);
        assert!(!record.name.namespace.contains('\0') && !record.name.key.contains('\0'));
        assert_eq!(Record::from_bytes(&record.to_stored_bytes()).as_ref(), Ok(&record), "what is taken can be kept");
    }
    let _ = listing.next_after.as_deref().map(wire::parse_cursor);
}

/// The same of its tombstones.
fn tombstone_page(data: &[u8]) {
    let Ok(listing) = wire::read_tombstone_page(data) else { return };
    for tombstone in listing.tombstones {
        assert!(tombstone.namespace_id.len() <= NAMESPACE_BYTES_MAX && !tombstone.namespace_id.contains('\0'));
    }
}

/// What peers say of themselves, ask for and answer in JSON.
fn peer_json(data: &[u8]) {
    again::<wire::StatusReply>(data);
    again::<wire::DigestReply>(data);
    again::<wire::SetDigestReply>(data);
    again::<wire::PeerErrorBody>(data);
    again::<BulkRequest>(data);
}

/// What reads is the same once written and read again.
fn again<T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug>(data: &[u8]) {
    let Ok(read) = serde_json::from_slice::<T>(data) else { return };
    let written = serde_json::to_vec(&read).expect("writing JSON");
    assert_eq!(serde_json::from_slice::<T>(&written).expect("reading it again"), read);
}

/// Paths and queries of the public plane.
fn query(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(query) = Query::parse(Some(text)) {
        let _ = (query.get(&["tenant_id", "account_handle"]), query.require(&["hash"]).is_ok());
    }
    if let Ok(segments) = segments(text, "/bazel/") {
        assert!(segments.iter().map(String::len).sum::<usize>() <= text.len());
    }
    let _ = last_segment(text).is_ok();
    let decoded = Query::parse(Some(&format!("a={}", wire::encode_query(text)))).map_err(|_| "no query");
    assert_eq!(decoded.expect("what is encoded decodes").get(&["a"]).unwrap_or_default(), text);
}

/// A range lies within its body and is not empty.
fn range(data: &[u8]) {
    let (length, text) = data.split_at(data.len().min(8));
    let length = length.iter().fold(0, |length, byte| length << 8 | u64::from(*byte));
    let Ok(value) = HeaderValue::from_bytes(text) else { return };
    let mut headers = HeaderMap::new();
    headers.insert(header::RANGE, value.clone());
    headers.insert(header::IF_NONE_MATCH, value.clone());
    let Ok(conditions) = Conditions::parse(&headers) else { return };
    let digest = Digest::of(b"");
    let _ = conditions.not_modified(&digest);
    if let Ok(Selection::Part(part)) = conditions.select(&digest, length) {
        assert!(part.start < part.end && part.end <= length, "{part:?} of {length}");
    }
    headers.insert(header::IF_RANGE, value);
    let _ = Conditions::parse(&headers).map(|conditions| conditions.select(&digest, length).is_ok());
}

/// A settings file.
fn settings(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let file = ConfigFile { path: "kura.toml".to_owned(), text: Ok(text.to_owned()) };
    let machine = Machine { memory_bytes: 1 << 33, cpus: 4, open_files_max: 1024, current_dir: PathBuf::from("/w") };
    let variables = Variables::from_pairs([("HOME", "/home/ann")]);
    match config::resolve(&Inputs { flags: Vec::new(), variables, file: Some(file), machine }) {
        Ok(resolved) => drop(format!("{:?}", resolved.config)),
        Err(faults) => assert!(!faults.to_string().is_empty()),
    }
}

/// A manifest row, as it lies in the index and travels.
fn record(data: &[u8]) {
    check_record(data);
}

fn check_record(data: &[u8]) {
    let Ok(record) = Record::from_bytes(data) else { return };
    assert_eq!(Record::from_bytes(&record.to_stored_bytes()).as_ref(), Ok(&record));
    let sent = Record::from_bytes(&record.to_wire_bytes()).expect("what is sent reads");
    assert_eq!((&sent.name, sent.version(), sent.size), (&record.name, record.version(), record.size));
    let _ =
        (record.name.artifact_id(TENANT_ID), wire::keyed_sha256(&record.name), wire::check_name(&record.name).is_ok());
}

/// The end of a body file, and the slot of a partial.
fn body_footer(data: &[u8]) {
    with_file(data, |file, _| {
        if let Some(record) = footer::read(file).expect("reading a file") {
            assert!(record.stored_size < data.len() as u64);
            let body = data.get(..usize::try_from(record.stored_size).expect("a length")).expect("a body");
            let again = [body, &footer::encode(&record)].concat();
            with_file(&again, |file, _| assert_eq!(footer::read(file).expect("reading a file"), Some(record.clone())));
        }
    });
    if let Some(header) = PartialHeader::decode(data) {
        assert_eq!(PartialHeader::decode(&header.encode()), Some(header));
    }
}

/// The files beside the index: identity, run record, tombstone log.
fn data_dir(data: &[u8]) {
    with_file(data, |_, folder| {
        let layout = Layout::with_default_tmp(folder);
        for place in [layout.identity(), layout.run_record(), layout.tombstones_log()] {
            let _ = std::fs::remove_file(&place);
            std::fs::hard_link(folder.join("file"), &place).expect("giving it a name");
        }
        let _ = Identity::load(&layout).expect("reading a file");
        let _ = RunRecord::load(&layout).map(|record| format!("{record:?}"));
        if let Ok(tombstones) = tombstone_log::read(&layout.tombstones_log()) {
            assert!(tombstones.iter().map(|(namespace, _)| namespace.len()).sum::<usize>() <= data.len());
        }
    });
}

/// What Bazel says an action made.
fn action_result(data: &[u8]) {
    if let Some(named) = blobs_of_action_result(data) {
        assert!(named.blobs.len() <= BLOBS_MAX && named.trees.len() <= TREES_MAX);
    }
    assert!(blobs_of_tree(data).is_none_or(|blobs| blobs.len() <= BLOBS_MAX));
}

/// A file with these bytes, and the folder it lies in; the same one for each call of a thread, in memory if possible.
fn with_file(data: &[u8], act: impl FnOnce(&File, &std::path::Path)) {
    thread_local! {
        static FOLDER: RefCell<Vec<tempfile::TempDir>> = const { RefCell::new(Vec::new()) };
    }
    let folder = FOLDER.take().pop().unwrap_or_else(memory_folder);
    let options = File::options().read(true).write(true).create(true).truncate(true).open(folder.path().join("file"));
    let mut file = options.expect("making a file");
    file.write_all(data).and_then(|()| file.seek(SeekFrom::Start(0))).expect("writing it");
    act(&file, folder.path());
    FOLDER.with_borrow_mut(|folders| folders.push(folder));
}

/// A new folder, in memory if possible.
pub fn memory_folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("making a folder")
}
