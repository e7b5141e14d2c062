//! Bodies made from a seed, of any length, without holding them in memory.

use std::io::{self, Read};

/// Bytes after which a body repeats itself. Odd, so that no block of a disk or a buffer lines up with it.
const PERIOD_BYTES: usize = 65_521;

/// A body of `len` bytes that only depends on `seed`. Equal seeds and lengths give equal bytes.
#[derive(Debug, Clone)]
pub struct SeededBody {
    block: Vec<u8>,
    position: u64,
    len: u64,
}

impl SeededBody {
    /// The body of this seed and length.
    pub fn new(seed: u64, len: u64) -> Self {
        let mut random = SplitMix::new(seed);
        let wanted = usize::try_from(len).unwrap_or(usize::MAX).min(PERIOD_BYTES);
        let mut block = Vec::with_capacity(wanted + 8);
        while block.len() < wanted {
            block.extend_from_slice(&random.next().to_le_bytes());
        }
        block.truncate(wanted);
        Self { block, position: 0, len }
    }

    /// All of it.
    pub fn into_vec(mut self) -> Vec<u8> {
        let mut all = Vec::new();
        self.read_to_end(&mut all).expect("reading from memory");
        all
    }
}

impl Read for SeededBody {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.position == self.len || self.block.is_empty() {
            return Ok(0);
        }
        let offset = (self.position % self.block.len() as u64) as usize;
        let left = usize::try_from(self.len - self.position).unwrap_or(usize::MAX);
        let count = buffer.len().min(self.block.len() - offset).min(left);
        buffer[..count].copy_from_slice(&self.block[offset..offset + count]);
        self.position += count as u64;
        Ok(count)
    }
}

/// A small generator, the same on every machine.
#[derive(Debug, Clone)]
pub struct SplitMix(u64);

impl SplitMix {
    /// Starts at a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The next number in 0 to 1.
    pub fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}
