//! The side log of tombstones: what was deleted, readable without the index.
//!
//! How it works: a header of 8 bytes, then entries of length (u32 LE), CRC-32 (u32 LE) and tagged fields (1: namespace,
//! 2: version_ms), then zeros as far as room is kept for more. Entries are appended and synced before the batch that makes the delete visible; so an acknowledged
//! delete is in both places, and one that is only here was never acknowledged. A later entry for a namespace wins.
//!
//! Failure: a torn end is cut off at the next open. An append that fails is cut off at once. What is cut off may be more
//! than an entry that never counted, where the volume lost bytes in the middle; and the whole log may be lost. So a log
//! that was not found whole is written anew from the index, which has every tombstone that counts.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::Arc;

use super::state::Core;
use super::tagged::Row;
use crate::core::base::disk::Disk;
use crate::core::base::limits::NAMESPACE_BYTES_MAX;

/// The first bytes; a later format has others.
const MAGIC: &[u8; 8] = b"KURATMB1";

/// An entry's payload is a namespace, a number and a few bytes of tags.
const ENTRY_BYTES_MAX: usize = NAMESPACE_BYTES_MAX + 4096;

/// A log longer than this, and twice as long as when it was last opened or written anew, is written anew: it holds the
/// same namespaces over and over.
const REWRITE_ABOVE_BYTES: u64 = 4 << 20;

/// Room kept behind the last entry, in blocks of the volume that nobody else gets: a full one still takes these deletes.
const RESERVE_BYTES: u64 = 64 << 10;

/// Entries written at a time while rewriting.
const REWRITE_CHUNK_ENTRIES: usize = 1024;

/// The log, open for appending.
#[derive(Debug)]
pub(crate) struct TombstoneLog {
    file: File,
    end: u64,
    /// Up to where the volume has given room; zeros from `end` on.
    reserved: u64,
    /// Its length when it was opened or written anew.
    began_at: u64,
    /// Whether all of it was there when it was opened.
    is_whole: bool,
    disk: Arc<dyn Disk>,
}

impl TombstoneLog {
    /// Opens or makes the log and cuts off a torn end.
    pub(crate) fn open(path: &Path, disk: Arc<dyn Disk>) -> io::Result<Self> {
        let file = match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => disk.create_new(path)?,
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
                // An empty folder in its place holds nothing of ours; of any other one somebody should know.
                disk.remove_dir(path)?;
                disk.create_new(path)?
            }
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        (&file).read_to_end(&mut bytes)?;
        let mut log = Self { file, end: 0, reserved: 0, began_at: 0, is_whole: true, disk };
        if bytes.len() < MAGIC.len() {
            log.is_whole = false;
            log.start()?;
            log.disk.sync_dir(path.parent().unwrap_or(path))?;
        } else if !bytes.starts_with(MAGIC) {
            // What it held is in the index, from which it is written anew. Of a later version the identity says so.
            log.is_whole = false;
            log.start()?;
        } else {
            log.end = parse(&bytes)?.1;
            log.reserved = bytes.len() as u64;
            let mut behind = bytes.iter().skip(usize::try_from(log.end).unwrap_or(usize::MAX));
            if behind.any(|byte| *byte != 0) {
                log.is_whole = false;
                log.take_back(log.end)?;
            }
        }
        log.reserve(0);
        Ok(log)
    }

    /// Sees to room for this much and some more; without it a write asks for its room as any other does.
    fn reserve(&mut self, bytes: u64) {
        let needed = self.end.saturating_add(bytes);
        if needed.saturating_add(RESERVE_BYTES / 2) <= self.reserved {
            return;
        }
        let wanted = needed.saturating_add(RESERVE_BYTES);
        if self.disk.allocate(&self.file, wanted).is_ok() {
            self.reserved = wanted;
        }
    }

    /// Where the last entry ends.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Forgets what was appended behind here, which did not become durable.
    pub(crate) fn take_back(&mut self, end: u64) -> io::Result<()> {
        self.disk.set_len(&self.file, end)?;
        (self.end, self.reserved) = (end, end);
        Ok(())
    }

    /// Whether all of it was there when it was opened.
    pub(crate) fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// Whether the log has grown so long that it should hold only what still counts.
    pub(crate) fn is_long(&self) -> bool {
        self.end > REWRITE_ABOVE_BYTES.max(self.began_at.saturating_mul(2))
    }

    /// Replaces the log by one that holds just these tombstones, beside its place and then over it.
    pub(crate) fn rewrite(&mut self, path: &Path, tombstones: &[(String, u64)]) -> io::Result<()> {
        let fresh_path = path.with_extension("new");
        match self.disk.unlink(&fresh_path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = self.disk.create_new(&fresh_path)?;
        let mut fresh = Self { file, end: 0, reserved: 0, began_at: 0, is_whole: true, disk: Arc::clone(&self.disk) };
        fresh.start()?;
        for some in tombstones.chunks(REWRITE_CHUNK_ENTRIES) {
            fresh.append(some.iter().map(|(namespace, version_ms)| (namespace.as_str(), *version_ms)))?;
        }
        fresh.sync()?;
        fresh.began_at = fresh.end;
        self.disk.rename(&fresh_path, path)?;
        *self = fresh;
        self.disk.sync_dir(path.parent().unwrap_or(path))
    }

    /// Writes the log anew with every tombstone the index has. Where that fails the log goes on as it is.
    pub(crate) fn refresh(&mut self, core: &Core, path: &Path) {
        let refreshed = core.all_tombstones().and_then(|tombstones| {
            if tombstones.is_empty() && self.end <= MAGIC.len() as u64 {
                return Ok(());
            }
            self.rewrite(path, &tombstones).map_err(|source| core.io_error("rewrite", path, source))
        });
        if let Err(error) = refreshed {
            tracing::warn!(%error, "store_tombstone_log_not_rewritten");
        }
        // Not again before it has doubled from here.
        self.began_at = self.end;
    }

    fn start(&mut self) -> io::Result<()> {
        self.disk.set_len(&self.file, 0)?;
        self.disk.write_all_at(&self.file, MAGIC, 0)?;
        self.disk.sync_data(&self.file)?;
        self.end = MAGIC.len() as u64;
        self.reserved = self.end;
        Ok(())
    }

    /// Appends tombstones; the caller syncs.
    pub(crate) fn append<'a>(&mut self, tombstones: impl Iterator<Item = (&'a str, u64)>) -> io::Result<()> {
        let mut bytes = Vec::new();
        for (namespace, version_ms) in tombstones {
            let entry = Row::default().with_bytes(1, namespace.as_bytes()).with_number(2, version_ms).encode();
            bytes.extend_from_slice(&u32::try_from(entry.len()).unwrap_or(u32::MAX).to_le_bytes());
            bytes.extend_from_slice(&crc32fast::hash(&entry).to_le_bytes());
            bytes.extend_from_slice(&entry);
        }
        self.reserve(bytes.len() as u64);
        match self.disk.write_all_at(&self.file, &bytes, self.end) {
            Ok(()) => {
                self.end += bytes.len() as u64;
                self.reserved = self.reserved.max(self.end);
                Ok(())
            }
            Err(error) => {
                // The half-written entry must not hide later ones; if this fails too, the next append overwrites it.
                let _ = self.take_back(self.end);
                Err(error)
            }
        }
    }

    /// Makes the appended tombstones durable.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.disk.sync_data(&self.file)
    }
}

/// Reads all tombstones of a log up to its first torn or changed entry; an absent log has none.
///
/// # Errors
/// What the system says, and `InvalidData` for a file that is no such log.
pub fn read(path: &Path) -> io::Result<Vec<(String, u64)>> {
    match std::fs::read(path) {
        Ok(bytes) if bytes.len() < MAGIC.len() => Ok(Vec::new()),
        Ok(bytes) => Ok(parse(&bytes)?.0),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// The newest delete of a namespace, if there is one, by a log that no open store appends to.
///
/// # Errors
/// What the system says, `NotFound` without a log, and `InvalidData` for one that is not there whole: what is behind the
/// damage only the index knows.
pub(super) fn newest_of(path: &Path, namespace: &str) -> io::Result<Option<u64>> {
    let bytes = std::fs::read(path)?;
    let mut rest = bytes.strip_prefix(MAGIC).ok_or(io::ErrorKind::InvalidData)?;
    let mut newest = None;
    while let Some(((entry, version_ms), after)) = take_entry(rest) {
        if entry == namespace {
            newest = newest.max(Some(version_ms));
        }
        rest = after;
    }
    // Zeros are room for more.
    if rest.iter().all(|byte| *byte == 0) { Ok(newest) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// The entries and where the last good one ends.
fn parse(bytes: &[u8]) -> io::Result<(Vec<(String, u64)>, u64)> {
    let mut rest = bytes
        .strip_prefix(MAGIC)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it is not a log of tombstones"))?;
    let mut tombstones = Vec::new();
    while let Some((entry, after)) = take_entry(rest) {
        tombstones.push(entry);
        rest = after;
    }
    Ok((tombstones, (bytes.len() - rest.len()) as u64))
}

fn take_entry(bytes: &[u8]) -> Option<((String, u64), &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (checksum, rest) = rest.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok().filter(|length| *length <= ENTRY_BYTES_MAX)?;
    let (entry, after) = rest.split_at_checked(length)?;
    if crc32fast::hash(entry) != u32::from_le_bytes(*checksum) {
        return None;
    }
    let row = Row::decode(entry).ok()?;
    let namespace = String::from_utf8(row.bytes(1)?.to_vec()).ok()?;
    Some(((namespace, row.number(2)), after))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::base::disk::{DiskOperation, FaultDisk, RealDisk};

    fn entries(names: &[(&str, u64)]) -> Vec<(String, u64)> {
        names.iter().map(|(name, version)| ((*name).to_owned(), *version)).collect()
    }

    #[test]
    fn appended_tombstones_are_read_back_across_opens() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("tombstones.log");
        assert_eq!(read(&path).unwrap(), []);
        for names in [[("ios", 1), ("", 2)], [("ios", 3), ("x", 4)]] {
            let mut log = TombstoneLog::open(&path, Arc::new(RealDisk)).unwrap();
            log.append(names.into_iter()).unwrap();
            log.sync().unwrap();
        }
        assert_eq!(read(&path).unwrap(), entries(&[("ios", 1), ("", 2), ("ios", 3), ("x", 4)]));
    }

    #[test]
    fn the_newest_delete_of_a_namespace_is_told_by_a_whole_log_only() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("tombstones.log");
        assert_eq!(newest_of(&path, "ios").unwrap_err().kind(), io::ErrorKind::NotFound);
        let mut log = TombstoneLog::open(&path, Arc::new(RealDisk)).unwrap();
        assert_eq!(newest_of(&path, "ios").unwrap(), None);
        log.append([("ios", 3), ("ios", 2), ("x", 9)].into_iter()).unwrap();
        let end = usize::try_from(log.end()).unwrap();
        assert_eq!(newest_of(&path, "ios").unwrap(), Some(3));
        assert_eq!(newest_of(&path, "io").unwrap(), None);
        let whole = std::fs::read(&path).unwrap();
        for offset in 0..end {
            let mut changed = whole.clone();
            changed[offset] ^= 0x55;
            std::fs::write(&path, &changed).unwrap();
            assert_eq!(newest_of(&path, "ios").unwrap_err().kind(), io::ErrorKind::InvalidData, "changed at {offset}");
        }
        std::fs::write(&path, b"KURA").unwrap();
        assert!(newest_of(&path, "ios").is_err());
    }

    #[test]
    fn a_torn_end_is_cut_off_and_hides_nothing_before_or_after_it() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("tombstones.log");
        let mut log = TombstoneLog::open(&path, Arc::new(RealDisk)).unwrap();
        log.append([("one", 1), ("two", 2)].into_iter()).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for cut in 0..usize::try_from(log.end()).unwrap() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let mut log = TombstoneLog::open(&path, Arc::new(RealDisk)).unwrap();
            log.append([("three", 3)].into_iter()).unwrap();
            let read = read(&path).unwrap();
            assert_eq!(read.last(), Some(&("three".to_owned(), 3)), "cut at {cut}");
            assert!(read.len() <= 2);
        }
    }

    #[test]
    fn the_golden_log_of_version_1_is_read() {
        let golden = "4b555241544d4231090000005dca0281010103616263020107";
        let bytes = hex::decode(golden).unwrap();
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("tombstones.log");
        let mut log = TombstoneLog::open(&path, Arc::new(RealDisk)).unwrap();
        log.append([("abc", 7)].into_iter()).unwrap();
        let written = std::fs::read(&path).unwrap();
        assert_eq!(hex::encode(&written[..bytes.len()]), hex::encode(&bytes));
        assert!(written[bytes.len()..].iter().all(|byte| *byte == 0), "room for more");
        // As versions wrote it that kept no room.
        std::fs::write(&path, &bytes).unwrap();
        let log = TombstoneLog::open(&path, Arc::new(RealDisk)).unwrap();
        assert!(log.is_whole() && read(&path).unwrap() == entries(&[("abc", 7)]));
    }

    #[test]
    fn room_is_kept_for_deletes_and_is_no_torn_end() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("tombstones.log");
        let disk = Arc::new(FaultDisk::new(Arc::new(RealDisk)));
        let mut log = TombstoneLog::open(&path, Arc::clone(&disk) as Arc<dyn Disk>).unwrap();
        disk.set_rule(Some(Box::new(|_, _, number| (number > 20).then(|| io::ErrorKind::StorageFull.into()))));
        for round in 0..20 {
            log.append([("a namespace", round)].into_iter()).unwrap();
        }
        assert_eq!(disk.operations(), 20, "nothing but the writes");
        disk.set_rule(None);
        let mut log = TombstoneLog::open(&path, disk).unwrap();
        assert!(log.is_whole());
        log.append([("last", 1)].into_iter()).unwrap();
        assert_eq!(read(&path).unwrap().len(), 21);
        // What was not durable is taken back, and nothing of it hides what comes.
        let end = log.end();
        log.append([("not durable", 2)].into_iter()).unwrap();
        log.take_back(end).unwrap();
        log.append([("x", 3)].into_iter()).unwrap();
        assert_eq!(read(&path).unwrap().last().unwrap(), &("x".to_owned(), 3));
        assert_eq!(read(&path).unwrap().len(), 22);
    }

    #[test]
    fn a_rewritten_log_holds_just_what_counts_and_goes_on() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("tombstones.log");
        let mut log = TombstoneLog::open(&path, Arc::new(RealDisk)).unwrap();
        for round in 0..60_u64 {
            let namespaces: Vec<_> = (0..1000).map(|n| format!("{n:0100}")).collect();
            log.append(namespaces.iter().map(|namespace| (namespace.as_str(), round))).unwrap();
        }
        assert!(log.is_long());
        log.rewrite(&path, &entries(&[("one", 1), ("two", 2)])).unwrap();
        log.append([("three", 3)].into_iter()).unwrap();
        assert!(!log.is_long());
        assert_eq!(read(&path).unwrap(), entries(&[("one", 1), ("two", 2), ("three", 3)]));
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_append_leaves_the_log_as_it_was() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("tombstones.log");
        let disk = Arc::new(FaultDisk::new(Arc::new(RealDisk)));
        let mut log = TombstoneLog::open(&path, Arc::clone(&disk) as Arc<dyn Disk>).unwrap();
        log.append([("one", 1)].into_iter()).unwrap();
        disk.set_rule(Some(Box::new(|operation, _, number| {
            (operation == DiskOperation::Write && number == 0).then(|| io::ErrorKind::StorageFull.into())
        })));
        assert!(log.append([("two", 2)].into_iter()).is_err());
        log.append([("three", 3)].into_iter()).unwrap();
        assert_eq!(read(&path).unwrap(), entries(&[("one", 1), ("three", 3)]));
    }
}
