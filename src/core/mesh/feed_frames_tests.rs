//! The bytes of a feed page, and every way in which a page can be wrong.

use super::*;

fn header() -> FeedHeader {
    FeedHeader {
        version: 1,
        store_id: StoreId([0x11; 16]),
        instance_id: InstanceId([0x22; 16]),
        epoch: Epoch([0x33; 8]),
        head_seq: Seq(9),
        after: Seq(2),
        next: Seq(4),
        evicted_floor_ms: 0,
        now_ms: 1_700_000_000_000,
        order: FeedOrder::Seq,
        position: None,
    }
}

fn page() -> Vec<Frame> {
    vec![
        Frame::Header(header()),
        Frame::Row { status: FrameStatus::Ok, record: Bytes::from_static(b"rec"), body: None },
        Frame::Row {
            status: FrameStatus::Ok,
            record: Bytes::from_static(b"r2"),
            body: Some(Bytes::from_static(b"body")),
        },
        Frame::Tombstone { seq: Seq(4), version_ms: 5, namespace: "ns".to_owned() },
        Frame::End { rows: 3 },
    ]
}

fn encoded(frames: &[Frame]) -> Bytes {
    let mut bytes = BytesMut::new();
    frames.iter().for_each(|frame| encode(frame, &mut bytes));
    bytes.freeze()
}

#[test]
fn a_page_has_these_very_bytes() {
    let header = concat!(
        r#"{"version":1,"store_id":"11111111111111111111111111111111","instance_id":"22222222222222222222222222222222","#,
        r#""epoch":"3333333333333333","head_seq":9,"after":2,"next":4,"evicted_floor_ms":0,"now_ms":1700000000000}"#,
    );
    let digest = Digest::of(b"body");
    let before_end = format!(
        "d50000000100{}09000000020003000000726563{}{}",
        hex::encode(header),
        format_args!("2c000000020002000000{}{digest}{}", hex::encode("r2"), hex::encode("body")),
        "14000000030004000000000000000500000000000000".to_owned() + &hex::encode("ns")
    );
    let page_digest = Digest::of(&hex::decode(&before_end).unwrap());
    assert_eq!(hex::encode(encoded(&page())), format!("{before_end}2a00000004000300000000000000{page_digest}"));
}

#[test]
fn a_page_round_trips() {
    let decoded = decode_page(encoded(&page())).unwrap();
    assert_eq!(decoded.header, header());
    assert_eq!(decoded.rows, page()[1..4]);
}

#[test]
fn a_page_cut_anywhere_is_an_error() {
    let whole = encoded(&page());
    for length in 0..whole.len() {
        assert!(decode_page(whole.slice(..length)).is_err(), "cut after {length} bytes");
    }
    assert_eq!(decode_page(encoded(&page()[..4])), Err(FrameError::Cut));
}

#[test]
fn a_byte_changed_anywhere_is_an_error() {
    let whole = encoded(&page());
    for at in 0..whole.len() {
        let mut changed = BytesMut::from(&whole[..]);
        changed[at] ^= 1;
        // The status of the end frame itself says nothing and is not covered.
        let is_end_status = at == whole.len() - 41;
        assert_eq!(decode_page(changed.freeze()).is_err(), !is_end_status, "byte {at}");
    }
}

#[test]
fn unknown_types_are_skipped_and_unknown_statuses_kept() {
    let mut bytes = BytesMut::from(&encoded(&page()[..1])[..]);
    bytes.put_slice(&[5, 0, 0, 0, 200, 0, 1, 2, 3]);
    bytes.put_slice(&[9, 0, 0, 0, 2, 77, 3, 0, 0, 0, b'r', b'e', b'c']);
    encode(&Frame::End { rows: 1 }, &mut bytes);
    let decoded = decode_page(bytes.freeze()).unwrap();
    assert!(matches!(decoded.rows.as_slice(), [Frame::Row { status: FrameStatus::Other(77), .. }]));
}

#[test]
fn a_lying_page_is_refused() {
    let count = [page()[0].clone(), Frame::End { rows: 1 }];
    assert_eq!(decode_page(encoded(&count)), Err(FrameError::Count { said: 1, held: 0 }));
    let version = [Frame::Header(FeedHeader { version: 2, ..header() }), Frame::End { rows: 0 }];
    assert_eq!(decode_page(encoded(&version)), Err(FrameError::Version(2)));
    let mut corrupt = BytesMut::from(&encoded(&page())[..]);
    let at = corrupt.len() - 46 - 24 - 1;
    corrupt[at] ^= 1;
    assert_eq!(decode_page(corrupt.freeze()), Err(FrameError::PageDigest));
    let huge = [&encoded(&page()[..1])[..], &[255, 255, 255, 255, 2, 0]].concat();
    assert_eq!(decode_page(huge.into()), Err(FrameError::Cut));
    let record = [&encoded(&page()[..1])[..], &[6, 0, 0, 0, 2, 0, 255, 255, 255, 255]].concat();
    assert_eq!(decode_page(record.into()), Err(FrameError::Malformed("row")));
}
