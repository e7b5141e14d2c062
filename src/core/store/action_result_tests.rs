//! Messages as Bazel writes them, and bytes as nobody does.

use proptest::prelude::*;

use super::*;

fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    let mut length = content.len();
    while length >= 0x80 {
        bytes.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
    bytes.extend_from_slice(content);
    bytes
}

fn sha(number: u8) -> Sha256Digest {
    Sha256Digest([number; 32])
}

fn digest_message(number: u8) -> Vec<u8> {
    [field(1, hex::encode([number; 32]).as_bytes()), vec![2 << 3, 0x85, 0x02]].concat()
}

/// As an OutputFile or FileNode: name 1, digest 2, is_executable 4.
fn file(number: u8) -> Vec<u8> {
    [field(1, b"bazel-out/k8/bin/a"), field(2, &digest_message(number)), vec![4 << 3, 1]].concat()
}

fn action_result() -> Vec<u8> {
    [
        field(2, &file(1)),
        field(2, &file(2)),
        field(3, &[field(1, b"dir"), field(3, &digest_message(3))].concat()),
        vec![4 << 3, 1],
        field(5, b"raw output"),
        field(6, &digest_message(4)),
        field(8, &digest_message(5)),
        // execution_metadata with a fixed64 and a fixed32 in it, and a field of a later version.
        field(9, &[&[3 << 3 | 1, 1, 2, 3, 4, 5, 6, 7, 8, 4 << 3 | 5, 1, 2, 3, 4][..]].concat()),
        field(15, b"whatever comes"),
    ]
    .concat()
}

fn tree() -> Vec<u8> {
    let root = [field(1, &file(7)), field(2, &[field(1, b"sub"), field(2, &digest_message(8))].concat())].concat();
    [field(1, &root), field(2, &field(1, &file(9)))].concat()
}

#[test]
fn an_action_result_names_its_files_trees_and_outputs() {
    let named = blobs_of_action_result(&action_result()).unwrap();
    assert_eq!(named.blobs, (1..=5).map(sha).collect());
    assert_eq!(named.trees, [sha(3)].into());
}

#[test]
fn a_tree_names_the_files_of_all_its_directories_and_no_directory() {
    assert_eq!(blobs_of_tree(&tree()).unwrap(), [sha(7), sha(9)].into());
}

#[test]
fn an_absent_digest_and_the_empty_blob_name_nothing() {
    let empty = field(1, hex::encode(EMPTY_SHA256).as_bytes());
    let bytes = [field(2, &field(2, &empty)), field(2, &field(1, b"no digest")), field(6, b"")].concat();
    assert_eq!(blobs_of_action_result(&bytes).unwrap(), NamedBlobs::default());
    assert_eq!(blobs_of_action_result(b"").unwrap(), NamedBlobs::default());
}

#[test]
fn what_does_not_read_as_a_whole_is_no_action_result() {
    let whole = action_result();
    let wrong: [(&str, Vec<u8>); 7] = [
        ("cut", whole[..whole.len() - 1].to_vec()),
        ("not hex", field(6, &field(1, b"zz"))),
        ("a number for a message", vec![6 << 3, 1]),
        ("field zero", vec![2, 0]),
        ("a group", vec![2 << 3 | 3, 2 << 3 | 4]),
        ("an endless number", vec![0xff; 11]),
        ("longer than all there is", vec![2 << 3 | 2, 0xff, 0xff, 0xff, 0xff, 0x7f]),
    ];
    for (what, bytes) in wrong {
        assert_eq!(blobs_of_action_result(&bytes), None, "{what}");
    }
    assert_eq!(blobs_of_action_result(&vec![0; MESSAGE_BYTES_MAX + 1]), None);
}

#[test]
fn the_number_of_blobs_is_bounded() {
    let one = |index: u32| {
        let mut hash = [0; 32];
        hash[..4].copy_from_slice(&index.to_le_bytes());
        field(2, &field(2, &field(1, hex::encode(hash).as_bytes())))
    };
    let many: Vec<u8> = (0..BLOBS_MAX as u32 + 100).flat_map(one).collect();
    assert_eq!(blobs_of_action_result(&many).unwrap().blobs.len(), BLOBS_MAX);
}

proptest! {
    #[test]
    fn no_bytes_make_the_readers_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = blobs_of_action_result(&bytes);
        let _ = blobs_of_tree(&bytes);
    }

    #[test]
    fn no_change_of_good_bytes_makes_the_readers_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        for message in [action_result(), tree()] {
            let mut bytes = message;
            for (place, value) in &changes {
                let index = place.index(bytes.len());
                bytes[index] = *value;
            }
            let _ = blobs_of_action_result(&bytes);
            let _ = blobs_of_tree(&bytes);
            bytes.truncate(cut.index(bytes.len()));
            let _ = blobs_of_action_result(&bytes);
            let _ = blobs_of_tree(&bytes);
        }
    }
}
