//! The seed era's JSON as it is read and written: tolerant of what is new, strict about what would do harm.

use super::*;

const ID: &str = "81da7c9260239afe7ec39f204b6d79c5d979b8cb4ac6b136fc5fd17e57d0a96c";

fn row() -> serde_json::Value {
    serde_json::json!({
        "artifact_id": ID, "producer": "xcode", "namespace_id": "ios", "key": "blob/artifact-1",
        "content_type": "application/octet-stream", "inline": false, "blob_path": "/x", "segment_id": "s",
        "segment_offset": 7, "size": 12, "version_ms": 1_750_000_000_000_u64, "created_at_ms": 1_750_000_000_001_u64,
    })
}

fn read(rows: Vec<serde_json::Value>) -> ManifestListing {
    let page = serde_json::json!({"manifests": rows, "next_after": null, "later": 1});
    read_manifest_page(page.to_string().as_bytes(), "default").unwrap()
}

#[test]
fn a_seed_era_row_is_read_and_unknown_fields_are_ignored() {
    let listing = read(vec![row()]);
    assert_eq!((listing.records.len(), listing.skipped.len()), (1, 0));
    let record = &listing.records[0];
    assert_eq!(record.name.artifact_id("default").to_string(), ID);
    assert_eq!((record.size, record.version_ms, record.kind), (12, 1_750_000_000_000, Kind::Blob));
}

#[test]
fn an_unusable_row_is_skipped_and_counted_and_the_page_goes_on() {
    let change = |field: &str, value: serde_json::Value| {
        let mut row = row();
        row[field] = value;
        row
    };
    let bad = vec![
        change("producer", "bazel".into()),
        change("producer", 7.into()),
        change("size", (-1).into()),
        change("size", (BODY_BYTES_MAX + 1).into()),
        change("key", "another".into()),
        change("key", "a\0b".into()),
        change("namespace_id", "n".repeat(257).into()),
        serde_json::json!("not an object"),
        serde_json::json!({}),
    ];
    let count = bad.len();
    let listing = read(bad.into_iter().chain([row()]).collect());
    assert_eq!((listing.records.len(), listing.skipped.len()), (1, count), "{:?}", listing.skipped);
}

#[test]
fn a_missing_inline_and_a_zero_version_have_their_defaults() {
    let mut row = row();
    row.as_object_mut().unwrap().remove("inline");
    row["version_ms"] = 0.into();
    assert_eq!(read(vec![row]).records[0].version_ms, 1_750_000_000_001);
}

#[test]
fn what_is_sent_is_what_is_read() {
    let record = read(vec![row()]).records.remove(0);
    let manifest = SeedManifest::of(&record, "default");
    assert_eq!(manifest.clone().into_record("default").unwrap(), record);
    let page = SeedManifestPage { manifests: vec![manifest], next_after: None };
    let json = serde_json::to_value(&page).unwrap();
    assert!(json.as_object().unwrap().contains_key("next_after"), "the key is always present");
}

#[test]
fn tombstones_are_read_row_by_row() {
    let page = serde_json::json!({"tombstones": [
        {"namespace_id": "", "version_ms": 5}, {"namespace_id": "a\0b", "version_ms": 5}, {"namespace_id": 1},
    ], "next_after": "x"});
    let listing = read_tombstone_page(page.to_string().as_bytes()).unwrap();
    assert_eq!(listing.tombstones, [SeedTombstone { namespace_id: String::new(), version_ms: 5 }]);
    assert_eq!((listing.skipped.len(), listing.next_after.as_deref()), (2, Some("x")));
}

#[test]
fn a_seed_era_status_has_no_kura_part_and_a_later_one_is_tolerated() {
    let seed: StatusReply =
        serde_json::from_str(r#"{"region":"eu","tenant_id":"default","node_url":"http://a:7443","x":1}"#).unwrap();
    assert_eq!(seed.kura, None);
    let later = r#"{"region":"eu","tenant_id":"default","node_url":"http://a:7443","kura":{
        "store_id":null,"instance_id":"00000000000000000000000000000001","epoch":null,"head_seq":null,
        "protocol":{"min":1,"max":9},"features":["feed","telepathy"],"limits":{"page_bytes_max":1,"page_rows_max":1,
        "body_bytes_max":1,"moons":2},"now_ms":1,"state":"joining","complete":false,"later":{}}}"#;
    let later: StatusReply = serde_json::from_str(later).unwrap();
    assert_eq!(later.kura.unwrap().protocol.max, 9);
}

#[test]
fn keys_that_carry_a_hash_are_known() {
    let hash = "ab".repeat(32);
    let name =
        |producer: &str, key: String| ArtifactKey { producer: producer.to_owned(), namespace: String::new(), key };
    assert!(keyed_sha256(&name("reapi", format!("blob/{hash}/12"))).is_some());
    assert!(keyed_sha256(&name("bazel", format!("cas/{hash}"))).is_some());
    assert!(keyed_sha256(&name("bazel", format!("ac/{hash}"))).is_none());
    assert!(keyed_sha256(&name("nx", hash)).is_none());
}

#[test]
fn query_values_are_percent_encoded() {
    assert_eq!(encode_query("a b/ü~-_.9"), "a%20b%2F%C3%BC~-_.9");
}
