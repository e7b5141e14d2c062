//! What each corpus begins with: whole and honest input, made by the encoders where there are any.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use kura::core::base::disk::RealDisk;
use kura::core::base::ids::{ArtifactId, BodyNo, Digest, Epoch, InstanceId, Seq, StoreId, Version};
use kura::core::data_dir::identity::Identity;
use kura::core::data_dir::layout::Layout;
use kura::core::mesh::bulk_frames::{BULK_VERSION, BulkEncoder, BulkHeader, BulkItem, BulkRequest, EncodedItems};
use kura::core::mesh::feed_frames::{FEED_VERSION, FeedHeader, FeedOrder, Frame, FrameStatus, encode};
use kura::core::mesh::wire::SeedManifest;
use kura::core::staging::partials::{PartialHeader, PartialIdentity};
use kura::core::store::footer;
use kura::core::store::record::{ArtifactKey, BodyPlace, Kind, Record};

use super::targets::memory_folder;

const TENANT_ID: &str = "default";

fn artifact() -> Record {
    Record {
        kind: Kind::Action,
        flags: 0,
        name: ArtifactKey { producer: "nx".into(), namespace: "nx".into(), key: "123".into() },
        content_type: "application/octet-stream".into(),
        attributes: BTreeMap::from([("tag".to_owned(), "t".into())]),
        size: 4,
        stored_size: 4,
        encoding: 0,
        digest: Digest::of(b"body"),
        sha256: None,
        version_ms: 1_700_000_000_000,
        logical: 1,
        created_at_ms: 9,
        received_at_ms: 9,
        expires_at_ms: Some(10),
        origin: StoreId([2; 16]),
        body: Some(BodyPlace::File(BodyNo(3))),
        seq: Seq(0),
        unknown: Vec::new(),
    }
}

fn identity() -> Vec<u8> {
    let folder = memory_folder();
    let layout = Layout::with_default_tmp(folder.path());
    Identity::new(StoreId([1; 16]), TENANT_ID, 4096).store(&layout, &RealDisk).expect("writing the identity");
    std::fs::read(layout.identity()).expect("reading it")
}

/// Target, number, bytes.
pub fn seeds() -> Vec<(&'static str, usize, Vec<u8>)> {
    let mut all = Vec::new();
    for (name, seeds) in [
        ("bulk_answer", vec![bulk_answer()]),
        ("feed_page", vec![feed_page(FeedOrder::Seq), feed_page(FeedOrder::Version)]),
        ("manifest_page", vec![manifest_page()]),
        ("tombstone_page", vec![TOMBSTONES.into()]),
        ("peer_json", peer_json()),
        ("query", [QUERY, PATH].map(Vec::from).into()),
        ("range", RANGES.map(|range| [&100_u64.to_be_bytes(), range.as_bytes()].concat()).into()),
        ("settings", vec![SETTINGS.into()]),
        ("record", vec![artifact().to_stored_bytes(), artifact().to_wire_bytes()]),
        ("footer", vec![[b"body".to_vec(), footer::encode(&artifact())].concat(), partial()]),
        ("data_dir", vec![RUN_RECORD.into(), hex::decode(TOMBSTONE_LOG).expect("hex"), identity()]),
        ("action_result", vec![hex::decode(ACTION_RESULT).expect("hex"), hex::decode(TREE).expect("hex")]),
        ("multipart", vec![MULTIPART.into()]),
    ] {
        all.extend(seeds.into_iter().enumerate().map(|(number, seed)| (name, number, seed)));
    }
    all
}

fn bulk_answer() -> Vec<u8> {
    let mut encoder = BulkEncoder::default();
    let mut items = EncodedItems::default();
    items.push(0, FrameStatus::Ok, &artifact().to_wire_bytes(), b"body");
    items.push(1, FrameStatus::Evicted, &[], &[]);
    let header = encoder.header(&BulkHeader { version: BULK_VERSION, store_id: StoreId([1; 16]) });
    [header, encoder.items(items), encoder.end()].concat()
}

fn feed_page(order: FeedOrder) -> Vec<u8> {
    let mut page = BytesMut::new();
    let header = FeedHeader {
        version: FEED_VERSION,
        store_id: StoreId([1; 16]),
        instance_id: InstanceId([2; 16]),
        epoch: Epoch([3; 8]),
        head_seq: Seq(9),
        after: Seq(0),
        next: Seq(9),
        evicted_floor_ms: 0,
        now_ms: 1_700_000_000_000,
        order,
        position: (order == FeedOrder::Version).then(|| "0123".to_owned()),
    };
    encode(&Frame::Header(header), &mut page);
    let record = Bytes::from(artifact().to_wire_bytes());
    encode(&Frame::Row { status: FrameStatus::Ok, record: record.clone(), body: None }, &mut page);
    encode(&Frame::Row { status: FrameStatus::Ok, record, body: Some(Bytes::from_static(b"body")) }, &mut page);
    encode(&Frame::Tombstone { seq: Seq(4), version_ms: 5, namespace: "ios".to_owned() }, &mut page);
    encode(&Frame::End { rows: 3 }, &mut page);
    page.to_vec()
}

fn manifest_page() -> Vec<u8> {
    let row = serde_json::to_value(SeedManifest::of(&artifact(), TENANT_ID)).expect("a row");
    let page = serde_json::json!({"manifests": [row, {"artifact_id": "x"}], "next_after": "ab".repeat(32)});
    serde_json::to_vec(&page).expect("JSON")
}

fn peer_json() -> Vec<Vec<u8>> {
    let version = Version { version_ms: 1, logical: 2, digest: Digest([3; 32]) };
    let request = BulkRequest { items: vec![BulkItem::new(ArtifactId([4; 32]), version)] };
    let request = serde_json::to_vec(&request).expect("JSON");
    [STATUS, DIGEST, SET_DIGEST, ERROR].iter().map(|text| Vec::from(*text)).chain([request]).collect()
}

fn partial() -> Vec<u8> {
    let version = Version { version_ms: 1, logical: 0, digest: Digest([2; 32]) };
    let identity = PartialIdentity { id: ArtifactId([1; 32]), version, size: 1 << 27, note: b"note".to_vec() };
    PartialHeader { sequence: 3, identity, durable_bytes: 1 << 25 }.encode()
}

const TOMBSTONES: &str = r#"{"tombstones":[{"namespace_id":"","version_ms":1},{"namespace_id":"ios","version_ms":2},{"x":1}],"next_after":"ios"}"#;
const STATUS: &str = r#"{"region":"eu","tenant_id":"default","node_url":"http://kura-0:7443","kura":{"store_id":"01010101010101010101010101010101","instance_id":"02020202020202020202020202020202","epoch":"0303030303030303","head_seq":17,"protocol":{"min":1,"max":1},"features":["backfill","bulk"],"limits":{"page_bytes_max":33554432,"page_rows_max":4096,"body_bytes_max":2147483648},"now_ms":0,"state":"serving","complete":true,"evicted_floor_ms":0,"artifacts":9,"body_bytes":9,"seen_inbound":[]}}"#;
const DIGEST: &str = r#"{"prefix_len":3,"buckets":[{"prefix":"00f","count":2,"hash":"abcd"}]}"#;
const SET_DIGEST: &str = r#"{"store_id":"01010101010101010101010101010101","epoch":"0303030303030303","head_seq":1,"prefix_len":1,"stubs":0,"buckets":[{"prefix":"a","count":1,"sum":"00000000000000000000000000000001"}]}"#;
const ERROR: &str = r#"{"code":"busy","message":"later","retry_after_ms":1000}"#;
const QUERY: &str = "tenant_id=acme&namespace_id=ios%2Fx&hash=1+2&cache_category=builds&a=%C3%A4&b";
const PATH: &str = "/bazel/team/app%2Fb/ac/0123";
const RANGES: [&str; 5] = ["bytes=0-9", "bytes=90-", "bytes=-5", "bytes=0-1,5-6", "lines=1-2"];
const SETTINGS: &str = "port = 4000\ndata_dir = \"/var/cache/kura\"\npeers = [\"http://a:1\", \"http://b:2\"]\ndurability = \"power\"\n# a comment\ninline_max_bytes = \"16KiB\"\n";
const RUN_RECORD: &str = r#"{"instance_id":"02020202020202020202020202020202","boot_id":"b","pid":1,"host":"h","version":"0.1.0","started_at_ms":1,"clean":false,"staging_locks":true,"heartbeat_ms":1,"control_socket":null,"port":1,"internal_port":2,"later":[]}"#;
/// `abc` deleted at 7.
const TOMBSTONE_LOG: &str = "4b555241544d4231090000005dca0281010103616263020107";
/// A file with a digest and stdout: fields 2 and 6.
const ACTION_RESULT: &str = concat!(
    "124c",
    "0a0461626364",
    "12440a40",
    "3031323334353637383961626364656630313233343536373839616263646566",
    "3031323334353637383961626364656630313233343536373839616263646566",
    "1004",
    "32440a40",
    "3131323334353637383961626364656630313233343536373839616263646566",
    "3131323334353637383961626364656630313233343536373839616263646566",
    "1005"
);
/// A root directory with one file.
const TREE: &str = concat!(
    "0a4e",
    "0a4c",
    "0a0161",
    "12470a40",
    "3031323334353637383961626364656630313233343536373839616263646566",
    "3031323334353637383961626364656630313233343536373839616263646566",
    "1080808001"
);
/// Start, two parts, a wrong list, the right one; start, a part, wait until it expires.
const MULTIPART: &[u8] = &[0, 1, 0, 1, 1, 100, 2, 2, 200, 3, 0, 1, 3, 0, 3, 0, 1, 0, 1, 1, 7, 2, 3, 9, 4, 61, 0];
