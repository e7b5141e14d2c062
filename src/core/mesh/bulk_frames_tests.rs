//! The bytes of a bulk answer, and every way in which one can be wrong.

use proptest::prelude::*;

use super::*;

type Item = (u32, FrameStatus, Vec<u8>, Vec<u8>);

fn header() -> BulkHeader {
    BulkHeader { version: 1, store_id: StoreId([0x11; 16]) }
}

fn items() -> Vec<Item> {
    vec![
        (0, FrameStatus::Ok, b"rec".to_vec(), b"body".to_vec()),
        (1, FrameStatus::Evicted, Vec::new(), Vec::new()),
        (2, FrameStatus::Superseded, b"newer".to_vec(), b"".to_vec()),
    ]
}

fn encoded(header: &BulkHeader, items: &[Item]) -> Vec<u8> {
    let mut encoder = BulkEncoder::default();
    let mut bytes = encoder.header(header).to_vec();
    for chunk in items.chunks(2) {
        let mut encoded = EncodedItems::default();
        chunk.iter().for_each(|(place, status, record, body)| encoded.push(*place, *status, record, body));
        bytes.extend_from_slice(&encoder.items(encoded));
    }
    bytes.extend_from_slice(&encoder.end());
    bytes
}

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    put_frame(kind, FrameStatus::Ok, &[payload], &mut bytes);
    bytes.to_vec()
}

/// What comes out before the end or an error, and which of both it was.
fn decoded(bytes: &[u8], chunk: usize) -> (Vec<Item>, Result<(), BulkError>) {
    let (mut decoder, mut items) = (BulkDecoder::new(), Vec::new());
    for part in bytes.chunks(chunk.max(1)) {
        decoder.push(part);
        loop {
            match decoder.next_item() {
                Ok(Some(item)) => items.push((item.place, item.status, item.record.to_vec(), item.body.to_vec())),
                Ok(None) => break,
                Err(error) => return (items, Err(error)),
            }
        }
        assert!(decoder.buffer.len() <= 4 + FRAME_BYTES_MAX + part.len());
    }
    (items, decoder.finish())
}

#[test]
fn an_answer_has_these_very_bytes() {
    let sealed = |hex_head: &str| {
        let frame = hex::decode(hex_head).unwrap();
        let length = u32::try_from(frame.len() + 32).unwrap().to_le_bytes();
        format!("{}{hex_head}{}", hex::encode(length), Digest::of(&frame))
    };
    let json = hex::encode(r#"{"version":1,"store_id":"11111111111111111111111111111111"}"#);
    let frames = [format!("0100{json}"), format!("02000000000003000000{}{}", hex::encode("rec"), hex::encode("body"))];
    let digests = frames.iter().flat_map(|frame| *Digest::of(&hex::decode(frame).unwrap()).as_bytes());
    let chain = Digest::of(&digests.collect::<Vec<u8>>());
    let end = format!("030001000000000000000400000000000000{chain}");
    let expected: String = frames.iter().chain([&end]).map(|frame| sealed(frame)).collect();
    assert_eq!(hex::encode(encoded(&header(), &items()[..1])), expected);
}

#[test]
fn an_answer_comes_out_as_it_went_in_however_it_is_chunked() {
    let bytes = encoded(&header(), &items());
    for chunk in [1, 2, 7, 64, bytes.len()] {
        assert_eq!(decoded(&bytes, chunk), (items(), Ok(())), "in chunks of {chunk}");
    }
}

#[test]
fn what_came_before_a_cut_is_given_out_and_the_cut_is_told() {
    let bytes = encoded(&header(), &items());
    let mut most = 0;
    for length in 0..bytes.len() {
        let (came, end) = decoded(&bytes[..length], 5);
        assert_eq!(end, Err(BulkError::Cut), "cut after {length} bytes");
        assert_eq!(came[..], items()[..came.len()]);
        most = most.max(came.len());
    }
    assert_eq!(most, 3, "all items are out before the end frame");
}

#[test]
fn a_byte_changed_anywhere_is_told_and_nothing_wrong_is_given_out() {
    let bytes = encoded(&header(), &items());
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        let (came, end) = decoded(&changed, 64);
        assert!(end.is_err(), "byte {at}");
        assert_eq!(came[..], items()[..came.len()], "byte {at}");
    }
}

#[test]
fn unknown_types_are_skipped_and_unknown_statuses_kept() {
    let mut encoder = BulkEncoder::default();
    let mut bytes = encoder.header(&header()).to_vec();
    let later = frame(77, b"of a later version");
    encoder.tally.add(&Digest::from_slice(&later[later.len() - 32..]).unwrap(), None);
    bytes.extend_from_slice(&later);
    let mut encoded = EncodedItems::default();
    encoded.push(0, FrameStatus::Other(99), b"rec", b"");
    bytes.extend_from_slice(&encoder.items(encoded));
    bytes.extend_from_slice(&encoder.end());
    bytes.extend_from_slice(b"what follows the end");
    let (came, end) = decoded(&bytes, 9);
    assert_eq!((came.len(), came[0].1, end), (1, FrameStatus::Other(99), Ok(())));
}

#[test]
fn a_lying_answer_is_refused() {
    let head = encoded(&header(), &[])[..frame(1, &serde_json::to_vec(&header()).unwrap()).len()].to_vec();
    let after_head = |bytes: &[u8]| decoded(&[&head[..], bytes].concat(), 1000).1;
    assert_eq!(decoded(&encoded(&BulkHeader { version: 2, ..header() }, &[]), 99).1, Err(BulkError::Version(2)));
    assert_eq!(decoded(&frame(2, &[0; 8]), 99).1, Err(BulkError::Malformed("header")), "no header");
    assert_eq!(after_head(&head), Err(BulkError::Malformed("header")), "two headers");
    assert_eq!(after_head(&frame(2, &[0; 7])), Err(BulkError::Malformed("item")));
    assert_eq!(after_head(&frame(2, &[0, 0, 0, 0, 1, 0, 0, 0])), Err(BulkError::Malformed("item")), "a long record");
    let large = [&[0; 8][..], &vec![0; BULK_BODY_BYTES_MAX as usize + 1]].concat();
    assert_eq!(after_head(&frame(2, &large)), Err(BulkError::Malformed("item")), "a large body");
    assert_eq!(after_head(&frame(3, &[0; 48])), Err(BulkError::Count));
    assert_eq!(after_head(&[33, 0, 0, 0]), Err(BulkError::Malformed("short")));
    let longest = u32::try_from(FRAME_BYTES_MAX).unwrap();
    assert_eq!(after_head(&longest.to_le_bytes()), Err(BulkError::Cut));
    let error = Err(BulkError::TooLong(FRAME_BYTES_MAX + 1));
    assert_eq!(after_head(&(longest + 1).to_le_bytes()), error, "refused before a byte of it is kept");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_an_answer_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..400), chunk in 1..50_usize) {
        prop_assert!(decoded(&bytes, chunk).1.is_err());
    }

    #[test]
    fn any_bytes_within_good_frames_are_an_answer_or_an_error(
        frames in prop::collection::vec((0..5_u8, prop::collection::vec(any::<u8>(), 0..60)), 0..6),
        chunk in 1..50_usize,
    ) {
        let bytes: Vec<u8> = frames.iter().flat_map(|(kind, payload)| frame(*kind, payload)).collect();
        prop_assert!(decoded(&bytes, chunk).1.is_err());
    }

    #[test]
    fn any_items_come_out_as_they_went_in(
        parts in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..80), 0..3000_usize), 0..9),
        chunk in 1..999_usize,
    ) {
        let place = |at: usize| u32::try_from(at).unwrap();
        let item = |(at, (status, record, body)): (usize, (u8, Vec<u8>, usize))| {
            (place(at), FrameStatus::of(status), record, vec![status; body])
        };
        let items: Vec<Item> = parts.into_iter().enumerate().map(item).collect();
        prop_assert_eq!(decoded(&encoded(&header(), &items), chunk), (items, Ok(())));
    }

    #[test]
    fn groups_keep_every_item_its_order_and_both_bounds(sizes in prop::collection::vec(0..50_u64, 0..60)) {
        let groups = group_by_size(sizes.clone(), |size| *size, 5, 60);
        prop_assert!(groups.iter().all(|group| !group.is_empty() && group.len() <= 5));
        prop_assert!(groups.iter().all(|group| group.len() == 1 || group.iter().sum::<u64>() <= 60));
        for pair in groups.windows(2) {
            let is_needed = pair[0].len() == 5 || pair[0].iter().sum::<u64>() + pair[1][0] > 60;
            prop_assert!(is_needed, "no group ends early");
        }
        prop_assert_eq!(groups.concat(), sizes);
    }
}
