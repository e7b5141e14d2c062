//! Partials: the staged files of long bodies, which say by themselves what they are and how much of them is durable.
//!
//! How it works: a partial is a named, locked file in the `bootstrap` area. The body lies at offset 0, so that the file
//! is committed by a link and no copy. Behind the room for the whole body, at the next multiple of [`SLOT_BYTES`], come
//! two slots for a header; each new header goes into the slot of the older one, so a torn write leaves the other. A
//! header names artifact, version, digest and size, and how many bytes from the start are durable. It is written after
//! the bytes were synced, and synced in its turn. The commit cuts the slots off.
//!
//! Invariants: the durable length never says more than was synced. What lies behind it means nothing. The digest is the
//! proof of the bytes, not the header: a partial is hashed from its first byte when it is taken up.
//!
//! Failure: a partial without a whole header (a crash while it was made, a later format) is dead staging like any other.

use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FlockOperation, OFlags};

use super::staged_file::StagedFile;
use crate::core::base::disk::Disk;
use crate::core::base::ids::{ArtifactId, Digest, Version};

/// How names of partials begin.
pub const PARTIAL_LABEL: &str = "partial";

/// Room for one header: a block, so that a torn write does not reach the other slot.
pub const SLOT_BYTES: u64 = 4096;

/// Both slots.
const TAIL_BYTES: u64 = 2 * SLOT_BYTES;

/// The first bytes of a header.
const MAGIC: &[u8; 8] = b"KURAPRT1";

/// The format of the fields. Fields are only added at the end, where this reader does not look.
const FORMAT: u16 = 1;

/// Magic, format and the length of the fields.
const FRAME_BYTES: usize = 12;

/// The CRC-32 behind the fields.
const CHECKSUM_BYTES: usize = 4;

/// The longest note that fits into a slot beside the other fields, with room for later ones.
pub const NOTE_BYTES_MAX: usize = 3584;

/// What a body is that can be taken up again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartialIdentity {
    /// The artifact.
    pub id: ArtifactId,
    /// Its version; the digest in it is what the bytes must have.
    pub version: Version,
    /// Bytes of the whole body.
    pub size: u64,
    /// What the owner wants to find again: the artifact's record. Left out of the header where it is too long.
    pub note: Vec<u8>,
}

/// The header of a partial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartialHeader {
    /// Rises with each header written; the higher one of the two counts.
    pub sequence: u64,
    /// What it is a part of.
    pub identity: PartialIdentity,
    /// Bytes from the start that were synced.
    pub durable_bytes: u64,
}

impl PartialHeader {
    /// The bytes of a slot.
    pub fn encode(&self) -> Vec<u8> {
        let identity = &self.identity;
        let note = if identity.note.len() > NOTE_BYTES_MAX { &[] } else { identity.note.as_slice() };
        let mut fields = Vec::with_capacity(256);
        fields.extend_from_slice(&self.sequence.to_le_bytes());
        fields.extend_from_slice(identity.id.as_bytes());
        fields.extend_from_slice(&identity.version.version_ms.to_le_bytes());
        fields.extend_from_slice(&identity.version.logical.to_le_bytes());
        fields.extend_from_slice(identity.version.digest.as_bytes());
        fields.extend_from_slice(&identity.size.to_le_bytes());
        fields.extend_from_slice(&self.durable_bytes.to_le_bytes());
        fields.extend_from_slice(&u16::try_from(note.len()).unwrap_or(0).to_le_bytes());
        fields.extend_from_slice(note);
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(&u16::try_from(fields.len()).unwrap_or(0).to_le_bytes());
        bytes.extend_from_slice(&fields);
        let checksum = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads a slot; `None` if there is no whole header of a known format in it.
    pub fn decode(slot: &[u8]) -> Option<Self> {
        let (frame, rest) = slot.split_at_checked(FRAME_BYTES)?;
        let mut frame = Fields(frame);
        if frame.take::<8>()? != *MAGIC || u16::from_le_bytes(frame.take()?) != FORMAT {
            return None;
        }
        let length = usize::from(u16::from_le_bytes(frame.take()?));
        let (fields, rest) = rest.split_at_checked(length)?;
        let checksum = u32::from_le_bytes(*rest.first_chunk::<CHECKSUM_BYTES>()?);
        if crc32fast::hash(slot.get(..FRAME_BYTES + length)?) != checksum {
            return None;
        }
        let mut fields = Fields(fields);
        let sequence = u64::from_le_bytes(fields.take()?);
        let id = ArtifactId(fields.take()?);
        let version_ms = u64::from_le_bytes(fields.take()?);
        let logical = u16::from_le_bytes(fields.take()?);
        let version = Version { version_ms, logical, digest: Digest(fields.take()?) };
        let size = u64::from_le_bytes(fields.take()?);
        let durable_bytes = u64::from_le_bytes(fields.take()?);
        let note_length = usize::from(u16::from_le_bytes(fields.take()?));
        let note = fields.0.get(..note_length)?.to_vec();
        let identity = PartialIdentity { id, version, size, note };
        (durable_bytes <= size).then_some(Self { sequence, identity, durable_bytes })
    }

    /// Where this header goes.
    pub(super) fn offset(&self) -> u64 {
        tail_at(self.identity.size).saturating_add((self.sequence % 2).saturating_mul(SLOT_BYTES))
    }
}

/// Bytes taken off the front one field after the other.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*first)
    }
}

fn tail_at(size: u64) -> u64 {
    size.div_ceil(SLOT_BYTES).saturating_mul(SLOT_BYTES)
}

/// The length of the file of a partial from its making on.
pub(super) fn file_bytes(size: u64) -> u64 {
    tail_at(size).saturating_add(TAIL_BYTES)
}

/// The newest whole header of a file; `None` if the file is no partial.
///
/// # Errors
/// What the system says while reading.
pub fn read_header(file: &File) -> io::Result<Option<PartialHeader>> {
    let length = file.metadata()?.len();
    let Some(tail) = length.checked_sub(TAIL_BYTES) else { return Ok(None) };
    let mut slots = [0_u8; TAIL_BYTES as usize];
    file.read_exact_at(&mut slots, tail)?;
    let headers = slots.chunks(SLOT_BYTES as usize).filter_map(PartialHeader::decode);
    let newest = headers.max_by_key(|header| header.sequence);
    Ok(newest.filter(|header| file_bytes(header.identity.size) == length))
}

/// Whether a file of this name may be a partial; its header decides.
pub fn has_partial_name(name: &std::ffi::OsStr) -> bool {
    name.as_bytes().strip_prefix(PARTIAL_LABEL.as_bytes()).is_some_and(|rest| rest.starts_with(b"-"))
}

/// A partial that was found and locked.
#[derive(Debug)]
pub(super) struct FoundPartial {
    pub(super) header: PartialHeader,
    pub(super) file: StagedFile,
}

/// Every partial in a folder that nobody owns, locked. What cannot be looked at or is none is left where it is.
pub(super) fn find(disk: &Arc<dyn Disk>, folder: &Path) -> Vec<FoundPartial> {
    let found = unowned(folder).into_iter().filter_map(|(path, file)| match read_header(&file) {
        Ok(header) => Some(FoundPartial { header: header?, file: StagedFile::found(Arc::clone(disk), file, path) }),
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "partial_not_read");
            None
        }
    });
    found.collect()
}

/// The partial of an artifact, owned or not, without taking its lock: for tools that change nothing. At most `files_max`
/// names are looked at; what cannot be read is passed over.
pub fn look_for(folder: &Path, id: &ArtifactId, files_max: usize) -> Option<(PathBuf, PartialHeader)> {
    let entries = std::fs::read_dir(folder).ok()?.flatten();
    let paths = entries.filter(|entry| has_partial_name(&entry.file_name())).map(|entry| entry.path());
    paths.take(files_max).find_map(|path| {
        let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).unwrap_or(0);
        let file = File::options().read(true).custom_flags(flags).open(&path).ok()?;
        let header = read_header(&file).ok()??;
        (header.identity.id == *id).then_some((path, header))
    })
}

/// Every file in a folder that has the name of a partial and that nobody owns, open and locked.
pub fn unowned(folder: &Path) -> Vec<(PathBuf, File)> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let names = entries.flatten().filter(|entry| has_partial_name(&entry.file_name()));
    let unowned = names.filter_map(|entry| match open_locked(&entry.path()) {
        Ok(file) => file.map(|file| (entry.path(), file)),
        Err(error) => {
            tracing::warn!(%error, path = %entry.path().display(), "partial_not_read");
            None
        }
    });
    unowned.collect()
}

fn open_locked(path: &Path) -> io::Result<Option<File>> {
    let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).unwrap_or(0);
    let file = File::options().read(true).write(true).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        // A file with a second name is a committed body, or on its way to be one.
        Ok(()) => Ok((metadata.is_file() && metadata.nlink() == 1).then_some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A name for a partial.
pub fn new_name() -> String {
    format!("{PARTIAL_LABEL}-{}", uuid::Uuid::now_v7())
}

/// Makes a file that holds a whole body, and what not behind it, a partial of which nothing is missing.
///
/// # Errors
/// What the system says.
pub fn restore_header(disk: &dyn Disk, file: &File, identity: PartialIdentity) -> io::Result<()> {
    let size = identity.size;
    let header = PartialHeader { sequence: 1, identity, durable_bytes: size };
    disk.sync_data(file)?;
    disk.set_len(file, size)?;
    disk.set_len(file, file_bytes(size))?;
    disk.write_all_at(file, &header.encode(), header.offset())
}

#[cfg(test)]
#[path = "partials_tests.rs"]
mod tests;
