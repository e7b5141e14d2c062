//! The header of a partial: its bytes stay readable, and nothing torn or foreign is taken for one.

use super::*;
use crate::core::base::disk::RealDisk;

fn header(sequence: u64, durable_bytes: u64) -> PartialHeader {
    let version = Version { version_ms: 1_760_000_000_000, logical: 3, digest: Digest([2; 32]) };
    let identity = PartialIdentity { id: ArtifactId([1; 32]), version, size: 10_000, note: b"a note".to_vec() };
    PartialHeader { sequence, identity, durable_bytes }
}

/// A header of format 1, as the first release wrote it. Never change it: a later binary goes on with such partials.
const GOLDEN_V1: &str = "4b555241505254310100\
    6a00\
    0700000000000000\
    0101010101010101010101010101010101010101010101010101010101010101\
    00c02cc899010000\
    0300\
    0202020202020202020202020202020202020202020202020202020202020202\
    1027000000000000\
    0020000000000000\
    0600\
    61206e6f7465";

#[test]
fn the_golden_header_of_format_1_is_read_and_written_alike() {
    let bytes = header(7, 8192).encode();
    let (fields, checksum) = bytes.split_at(bytes.len() - 4);
    assert_eq!(hex::encode(fields), GOLDEN_V1);
    assert_eq!(checksum, crc32fast::hash(fields).to_le_bytes());
    assert_eq!(PartialHeader::decode(&bytes), Some(header(7, 8192)));
}

#[test]
fn fields_of_a_later_release_are_passed_over_and_another_format_is_not_read() {
    let mut bytes = header(7, 8192).encode();
    bytes.truncate(bytes.len() - 4);
    let longer = u16::try_from(bytes.len() - FRAME_BYTES + 3).unwrap();
    bytes.splice(10..12, longer.to_le_bytes());
    bytes.extend_from_slice(b"new");
    bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
    bytes.resize(SLOT_BYTES as usize, 0);
    assert_eq!(PartialHeader::decode(&bytes), Some(header(7, 8192)));
    let mut later = header(7, 8192).encode();
    later[8] = 2;
    let end = later.len() - 4;
    let checksum = crc32fast::hash(&later[..end]).to_le_bytes();
    later.splice(end.., checksum);
    assert_eq!(PartialHeader::decode(&later), None);
}

#[test]
fn no_cut_and_no_changed_bit_is_taken_for_a_header() {
    let bytes = header(7, 8192).encode();
    for length in 0..bytes.len() {
        assert_eq!(PartialHeader::decode(&bytes[..length]), None, "cut at {length}");
    }
    for bit in 0..bytes.len() * 8 {
        let mut changed = bytes.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(PartialHeader::decode(&changed), None, "bit {bit}");
    }
    assert_eq!(PartialHeader::decode(&header(7, 10_001).encode()), None, "more durable than there is");
}

#[test]
fn a_note_that_is_too_long_is_left_out() {
    let mut long = header(1, 0);
    long.identity.note = vec![9; NOTE_BYTES_MAX];
    assert!(long.encode().len() <= SLOT_BYTES as usize);
    assert_eq!(PartialHeader::decode(&long.encode()).unwrap().identity.note.len(), NOTE_BYTES_MAX);
    long.identity.note.push(9);
    assert_eq!(PartialHeader::decode(&long.encode()).unwrap().identity.note, b"");
}

fn write(file: &File, header: &PartialHeader) {
    file.set_len(file_bytes(header.identity.size)).unwrap();
    file.write_all_at(&header.encode(), header.offset()).unwrap();
}

#[test]
fn the_newer_header_counts_and_a_torn_one_leaves_the_older() {
    let file = tempfile::tempfile().unwrap();
    assert_eq!(read_header(&file).unwrap(), None);
    write(&file, &header(1, 0));
    write(&file, &header(2, 4096));
    assert_eq!(read_header(&file).unwrap(), Some(header(2, 4096)));
    write(&file, &header(3, 8192));
    assert_eq!(read_header(&file).unwrap(), Some(header(3, 8192)));
    file.write_all_at(b"torn", header(3, 0).offset() + 50).unwrap();
    assert_eq!(read_header(&file).unwrap(), Some(header(2, 4096)));
    file.set_len(file_bytes(10_000) - 1).unwrap();
    assert_eq!(read_header(&file).unwrap(), None, "cut");
    file.set_len(10_000).unwrap();
    assert_eq!(read_header(&file).unwrap(), None, "its slots are cut off: about to be committed");
}

#[test]
fn only_unowned_partials_of_one_name_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let make = |name: &str| {
        let file = File::create_new(folder.path().join(name)).unwrap();
        write(&file, &header(1, 4096));
        file
    };
    make("partial-1");
    make("bootstrap-1");
    File::create_new(folder.path().join("partial-empty")).unwrap();
    let owned = make("partial-owned");
    rustix::fs::flock(&owned, FlockOperation::LockExclusive).unwrap();
    make("partial-linked");
    std::fs::hard_link(folder.path().join("partial-linked"), folder.path().join("body")).unwrap();
    std::os::unix::fs::symlink(folder.path().join("partial-1"), folder.path().join("partial-symlink")).unwrap();
    std::fs::create_dir(folder.path().join("partial-folder")).unwrap();
    let mut found = find(&disk, folder.path());
    assert_eq!(found.len(), 1);
    assert_eq!(found.remove(0).header, header(1, 4096));
    assert!(!folder.path().join("partial-1").exists(), "one that is found and dropped is gone");
    assert!(folder.path().join("partial-owned").exists() && folder.path().join("partial-linked").exists());
}
