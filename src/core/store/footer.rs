//! The end of a body file: the artifact's record, so that the index can be rebuilt from the files alone.
//!
//! How it works: the body lies at offset 0, so that it can go out without a copy. Behind it come the record's bytes and
//! a trailer of 16 bytes: the record's length (u32, little-endian), its CRC-32 (u32, little-endian), the magic.
//!
//! Invariant: the trailer's version is its magic; a later trailer has another one. The footer's record has no sequence
//! number: that belongs to the log of one epoch.
//!
//! Failure: a file that a crash left without its footer has no manifest either and is removed.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::record::Record;
use super::record_codec::RECORD_BYTES_MAX;
use crate::core::base::ids::Seq;

/// Bytes of the fixed trailer.
pub const TRAILER_BYTES: usize = 16;

/// The last bytes of every body file.
const MAGIC: &[u8; 8] = b"KURAFTR1";

/// The bytes to append behind the body.
pub fn encode(record: &Record) -> Vec<u8> {
    let mut bytes = Record { seq: Seq(0), ..record.clone() }.to_stored_bytes();
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let checksum = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes.extend_from_slice(MAGIC);
    bytes
}

/// Reads the footer of a file; `None` if it has none that is whole.
///
/// # Errors
/// What the system says while reading.
pub fn read(file: &File) -> io::Result<Option<Record>> {
    let file_length = file.metadata()?.len();
    let Some(trailer_at) = file_length.checked_sub(TRAILER_BYTES as u64) else { return Ok(None) };
    let mut trailer = [0_u8; TRAILER_BYTES];
    file.read_exact_at(&mut trailer, trailer_at)?;
    let Some((length, checksum)) = parse_trailer(&trailer) else { return Ok(None) };
    let Some(record_at) = trailer_at.checked_sub(length as u64) else { return Ok(None) };
    let mut bytes = vec![0_u8; length];
    file.read_exact_at(&mut bytes, record_at)?;
    let record = (crc32fast::hash(&bytes) == checksum).then(|| Record::from_bytes(&bytes).ok()).flatten();
    Ok(record.filter(|record| record.stored_size == record_at))
}

fn parse_trailer(trailer: &[u8; TRAILER_BYTES]) -> Option<(usize, u32)> {
    let (length, rest) = trailer.split_first_chunk::<4>()?;
    let (checksum, magic) = rest.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    (magic == MAGIC && length <= RECORD_BYTES_MAX).then_some((length, u32::from_le_bytes(*checksum)))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::core::base::ids::{BodyNo, Digest, StoreId};
    use crate::core::store::record::{ArtifactKey, BodyPlace, Kind};

    fn record() -> Record {
        Record {
            kind: Kind::Blob,
            flags: 0,
            name: ArtifactKey { producer: "nx".into(), namespace: "nx".into(), key: "1".into() },
            content_type: "a/b".into(),
            attributes: Default::default(),
            size: 4,
            stored_size: 4,
            encoding: 0,
            digest: Digest([1; 32]),
            sha256: None,
            version_ms: 9,
            logical: 0,
            created_at_ms: 9,
            received_at_ms: 9,
            expires_at_ms: None,
            origin: StoreId([2; 16]),
            body: Some(BodyPlace::File(BodyNo(3))),
            seq: Seq(0),
            unknown: Vec::new(),
        }
    }

    /// A body file of version 1, as the first release wrote it. Never change it: every later binary must read it.
    const GOLDEN_V1: &str = "626f64790101010003026e7804026e780501310603612f620801040b21010101010101010101010101010101010101010101\
        0101010101010101010101010d01090f01091001091210020202020202020202020202020202021302010359000000fdfb00\
        1e4b55524146545231";

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn the_golden_body_file_of_version_1_is_read_and_written_alike() {
        let bytes = [b"body".as_slice(), &encode(&Record { seq: Seq(55), ..record() })].concat();
        assert_eq!(hex::encode(&bytes), GOLDEN_V1);
        assert_eq!(read(&file(&bytes)).unwrap(), Some(record()));
    }

    #[test]
    fn torn_changed_or_foreign_ends_are_no_footer() {
        let whole = [b"body".as_slice(), &encode(&record())].concat();
        assert_eq!(read(&file(b"")).unwrap(), None);
        assert_eq!(read(&file(b"just a body without anything")).unwrap(), None);
        for cut in 1..whole.len() {
            assert_eq!(read(&file(&whole[..cut])).unwrap(), None, "cut at {cut}");
        }
        let mut changed = whole.clone();
        changed[10] ^= 1;
        assert_eq!(read(&file(&changed)).unwrap(), None);
        // A body that was cut or grew in front of its own footer is not what the footer describes.
        assert_eq!(read(&file(&whole[1..])).unwrap(), None);
    }
}
