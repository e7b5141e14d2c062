//! The bytes of a record: version 1 for ever, unknown fields kept, and no input that panics.

use proptest::prelude::*;

use super::*;

/// A record of version 1 as the first release wrote it. Never change it: every later binary must read it.
const GOLDEN_V1: &str = "01010100020105030562617a656c0407616e64726f696405066b2f3132333406186170706c69636174696f6e2f6f63746574\
    2d73747265616d070d086475726174696f6e03313334080380ea300b2101abababababababababababababababababababab\
    abababababababababababab0c20cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd0d0680b8\
    83a1f7320e01020f0681b883a1f732100682b883a1f7321210111111111111111111111111111111111303018120140163c8\
    0104746f6461";

fn golden() -> Record {
    Record {
        kind: Kind::Blob,
        flags: 5,
        name: ArtifactKey { producer: "bazel".into(), namespace: "android".into(), key: "k/1234".into() },
        content_type: "application/octet-stream".into(),
        attributes: BTreeMap::from([("duration".to_owned(), "134".to_owned())]),
        size: 800_000,
        stored_size: 800_000,
        encoding: 0,
        digest: Digest([0xab; 32]),
        sha256: Some(Sha256Digest([0xcd; 32])),
        version_ms: 1_750_000_000_000,
        logical: 2,
        created_at_ms: 1_750_000_000_001,
        received_at_ms: 1_750_000_000_002,
        expires_at_ms: None,
        origin: StoreId([0x11; 16]),
        body: Some(BodyPlace::File(BodyNo(4097))),
        seq: Seq(99),
        unknown: vec![(200, b"toda".to_vec())],
    }
}

#[test]
fn the_golden_record_of_version_1_is_read_and_written_alike() {
    assert_eq!(hex::encode(golden().to_stored_bytes()), GOLDEN_V1);
    assert_eq!(Record::from_bytes(&hex::decode(GOLDEN_V1).unwrap()).unwrap(), golden());
}

#[test]
fn the_wire_form_lacks_what_is_local() {
    let wire = Record::from_bytes(&golden().to_wire_bytes()).unwrap();
    assert_eq!(wire, Record { body: None, seq: Seq(0), ..golden() });
}

#[test]
fn bounds_and_missing_fields_are_refused() {
    let refused = |change: fn(&mut Record), expected: RecordError| {
        let mut record = golden();
        change(&mut record);
        assert_eq!(Record::from_bytes(&record.to_stored_bytes()), Err(expected));
    };
    refused(|r| r.name.key = "k".repeat(1025), RecordError::TooLong("key"));
    refused(|r| r.name.namespace = "n".repeat(257), RecordError::TooLong("namespace"));
    refused(|r| r.content_type = "c".repeat(257), RecordError::TooLong("content type"));
    refused(|r| r.unknown = vec![(300, vec![0; 9000])], RecordError::TooLong("part of later versions"));
    refused(
        |r| r.attributes = (0..17).map(|n| (format!("{n:02}"), String::new())).collect(),
        RecordError::TooLong("set of attributes"),
    );
    assert_eq!(Record::from_bytes(&[1]), Err(RecordError::Missing("size")));
    assert_eq!(Record::from_bytes(&[2]), Err(RecordError::Tagged(TaggedError::Version(2))));
    assert_eq!(Record::from_bytes(&vec![0; RECORD_BYTES_MAX + 1]), Err(RecordError::TooLong("record")));
}

prop_compose! {
    fn any_record()(
        kind in prop_oneof![Just(Kind::Blob), Just(Kind::Action), (2..=255_u8).prop_map(Kind::Reserved)],
        flags: u64, producer in "[a-z]{0,12}", namespace in ".{0,40}", key in ".{0,80}", content_type in "[a-z/]{0,30}",
        attributes in prop::collection::btree_map("[a-z]{1,8}", ".{0,16}", 0..4),
        (size, stored_size, encoding, logical) in any::<(u64, u64, u8, u16)>(),
        (digest, sha256, origin) in any::<([u8; 32], Option<[u8; 32]>, [u8; 16])>(),
        (version_ms, created_at_ms, received_at_ms, expires_at_ms) in any::<(u64, u64, u64, Option<u64>)>(),
        (body_no, place, seq) in any::<(u64, Option<bool>, u64)>(),
        unknown in prop::collection::btree_map(21..10_000_u64, prop::collection::vec(any::<u8>(), 0..20), 0..4),
    ) -> Record {
        let body = place.map(|file| if file { BodyPlace::File(BodyNo(body_no)) } else { BodyPlace::Inline(BodyNo(body_no)) });
        Record {
            kind, flags, name: ArtifactKey { producer, namespace, key }, content_type, attributes, size, stored_size,
            encoding, digest: Digest(digest), sha256: sha256.map(Sha256Digest), version_ms, logical, created_at_ms,
            received_at_ms, expires_at_ms, origin: StoreId(origin), body, seq: Seq(seq),
            unknown: unknown.into_iter().collect(),
        }
    }
}

proptest! {
    #[test]
    fn every_record_round_trips(record in any_record()) {
        let bytes = record.to_stored_bytes();
        prop_assert_eq!(&Record::from_bytes(&bytes).unwrap(), &record);
        prop_assert_eq!(Record::from_bytes(&bytes).unwrap().to_stored_bytes(), bytes);
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Record::from_bytes(&[&[1], bytes.as_slice()].concat());
    }
}
