//! Plain tar archives (ustar) of a few small files, written and read whole.
//!
//! Invariants: names are ASCII without `..` and at most 100 bytes; anything else is refused in both directions, so that
//! unpacking an archive elsewhere is safe. Sizes are bounded by the reader.

use std::io::{self, Read, Write};

/// Everything in an archive comes in pieces of this.
const BLOCK_BYTES: usize = 512;
/// An archive ends with two empty blocks.
const END_BLOCKS: usize = 2;
/// Bytes of a name in a header.
const NAME_BYTES_MAX: usize = 100;
/// Where the parts of a header lie: offset and length.
const SIZE: (usize, usize) = (124, 12);
const CHECKSUM: (usize, usize) = (148, 8);

/// Writes files into an archive.
#[derive(Debug)]
pub struct TarWriter<W: Write> {
    out: W,
    modified_s: u64,
}

impl<W: Write> TarWriter<W> {
    /// An archive whose files all carry this time, in Unix seconds.
    pub fn new(out: W, modified_s: u64) -> Self {
        Self { out, modified_s }
    }

    /// Adds a file that only its owner can read.
    ///
    /// # Errors
    /// `InvalidInput` for a name that is not plain; else what the sink says.
    pub fn file(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        if !is_plain(name) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("no name for an archive: {name:?}")));
        }
        self.out.write_all(&header(name, content.len(), self.modified_s))?;
        self.out.write_all(content)?;
        self.out.write_all(&vec![0; padding(content.len())])
    }

    /// Ends the archive.
    ///
    /// # Errors
    /// What the sink says.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&[0; BLOCK_BYTES * END_BLOCKS])?;
        self.out.flush()?;
        Ok(self.out)
    }
}

fn is_plain(name: &str) -> bool {
    let is_word = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    let parts_are_plain = name.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
    name.len() <= NAME_BYTES_MAX && name.chars().all(is_word) && parts_are_plain
}

fn padding(length: usize) -> usize {
    length.next_multiple_of(BLOCK_BYTES) - length
}

fn header(name: &str, length: usize, modified_s: u64) -> [u8; BLOCK_BYTES] {
    let mut block = [0; BLOCK_BYTES];
    let mut set = |offset: usize, bytes: &[u8]| {
        if let Some(place) = block.get_mut(offset..offset + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    };
    set(0, name.as_bytes());
    set(100, b"0000600\0");
    set(108, b"0000000\0");
    set(116, b"0000000\0");
    set(SIZE.0, format!("{length:011o}\0").as_bytes());
    set(136, format!("{modified_s:011o}\0").as_bytes());
    set(CHECKSUM.0, b"        ");
    set(156, b"0");
    set(257, b"ustar\x0000");
    let sum = checksum(&block);
    if let Some(place) = block.get_mut(CHECKSUM.0..CHECKSUM.0 + CHECKSUM.1) {
        place.copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    block
}

/// The sum of all bytes, those of the sum itself counted as spaces.
fn checksum(block: &[u8; BLOCK_BYTES]) -> u32 {
    let is_own = |at: usize| (CHECKSUM.0..CHECKSUM.0 + CHECKSUM.1).contains(&at);
    block.iter().enumerate().map(|(at, byte)| if is_own(at) { u32::from(b' ') } else { u32::from(*byte) }).sum()
}

/// Reads all files of an archive, at most `bytes_max` of contents.
///
/// # Errors
/// `InvalidData` for what is no such archive, is cut short or is too large; else what the source says.
pub fn read_all(mut source: impl Read, bytes_max: usize) -> io::Result<Vec<(String, Vec<u8>)>> {
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let (mut files, mut total) = (Vec::new(), 0_usize);
    loop {
        let mut block = [0; BLOCK_BYTES];
        source.read_exact(&mut block).map_err(|_| invalid("no archive, or cut short"))?;
        if block.iter().all(|byte| *byte == 0) {
            return Ok(files);
        }
        if octal(&block, CHECKSUM) != Some(u64::from(checksum(&block))) {
            return Err(invalid("no archive: a header does not add up"));
        }
        let name = text(&block, (0, NAME_BYTES_MAX)).filter(|name| is_plain(name));
        let name = name.ok_or_else(|| invalid("it has a name that is not plain"))?;
        let length = octal(&block, SIZE).and_then(|size| usize::try_from(size).ok());
        let length = length.ok_or_else(|| invalid("it has a size that is no number"))?;
        total = total.saturating_add(length);
        if total > bytes_max {
            return Err(invalid("it is too large"));
        }
        let mut content = vec![0; length + padding(length)];
        source.read_exact(&mut content).map_err(|_| invalid("cut short"))?;
        content.truncate(length);
        files.push((name, content));
    }
}

fn text(block: &[u8], (offset, length): (usize, usize)) -> Option<String> {
    let field = block.get(offset..offset + length)?;
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(length);
    String::from_utf8(field.get(..end)?.to_vec()).ok()
}

fn octal(block: &[u8], place: (usize, usize)) -> Option<u64> {
    u64::from_str_radix(text(block, place)?.trim(), 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut writer = TarWriter::new(Vec::new(), 1_750_000_000);
        files.iter().for_each(|(name, content)| writer.file(name, content).unwrap());
        writer.finish().unwrap()
    }

    #[test]
    fn what_is_written_is_read_back_here_and_by_tar() {
        let large = vec![7_u8; 70_000];
        let files: [(&str, &[u8]); 3] = [("a.json", b"{}"), ("logs/index", &large), ("empty", b"")];
        let bytes = archive(&files);
        let read = read_all(bytes.as_slice(), 1 << 20).unwrap();
        let expected: Vec<_> = files.iter().map(|(name, content)| ((*name).to_owned(), content.to_vec())).collect();
        assert_eq!(read, expected);
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("b.tar"), &bytes).unwrap();
        let tar = std::process::Command::new("tar").args(["-xf", "b.tar"]).current_dir(root.path()).status().unwrap();
        assert!(tar.success());
        assert_eq!(std::fs::read(root.path().join("logs/index")).unwrap(), large);
    }

    #[test]
    fn unsafe_names_cut_ones_changed_ones_and_large_ones_are_refused() {
        let mut writer = TarWriter::new(Vec::new(), 0);
        for name in ["../up", "/root", "a//b", "", "a b", "ä"] {
            assert!(writer.file(name, b"").is_err(), "{name}");
        }
        let bytes = archive(&[("a", &[1; 600])]);
        for length in 0..bytes.len() - 2 * BLOCK_BYTES {
            assert!(read_all(&bytes[..length], 1 << 20).is_err(), "cut at {length}");
        }
        let mut changed = bytes.clone();
        changed[0] ^= 1;
        assert!(read_all(changed.as_slice(), 1 << 20).is_err());
        assert!(read_all(bytes.as_slice(), 599).is_err());
    }
}
