//! Which artifacts clients asked for since eviction last passed them: one bit each, in a fixed number of bits.
//!
//! How it works: the bit is found by the artifact's id, which is a hash. Two artifacts that share a bit keep each other
//! now and then; with ten million artifacts of which a third is read, one in ten of the others is kept by chance.
//! A restart forgets the bits: the next round of eviction goes by age alone.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::core::base::ids::ArtifactId;

/// Words of 64 bits: 4 MiB, whatever the number of artifacts.
const WORDS: usize = 1 << 19;

/// The bits; not there before the first visit.
#[derive(Debug, Default)]
pub(crate) struct Visits(OnceLock<Box<[AtomicU64]>>);

impl Visits {
    /// Notes a visit.
    pub(crate) fn set(&self, id: &ArtifactId) {
        let words = self.0.get_or_init(|| (0..WORDS).map(|_| AtomicU64::new(0)).collect());
        let (at, bit) = position(id);
        if let Some(word) = words.get(at)
            && word.load(Ordering::Relaxed) & bit == 0
        {
            word.fetch_or(bit, Ordering::Relaxed);
        }
    }

    /// Whether it was visited.
    pub(crate) fn contains(&self, id: &ArtifactId) -> bool {
        let (at, bit) = position(id);
        self.0.get().and_then(|words| words.get(at)).is_some_and(|word| word.load(Ordering::Relaxed) & bit != 0)
    }

    /// Whether it was visited; forgets it.
    pub(crate) fn take(&self, id: &ArtifactId) -> bool {
        let (at, bit) = position(id);
        let word = self.0.get().and_then(|words| words.get(at));
        word.is_some_and(|word| word.fetch_and(!bit, Ordering::Relaxed) & bit != 0)
    }
}

fn position(id: &ArtifactId) -> (usize, u64) {
    let hash = id.as_bytes().first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    (usize::try_from(hash >> 6).unwrap_or(0) % WORDS, 1 << (hash % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_visit_is_noted_until_it_is_taken() {
        let (visits, one, other) = (Visits::default(), ArtifactId([1; 32]), ArtifactId([2; 32]));
        assert!(!visits.take(&one) && !visits.contains(&one));
        visits.set(&one);
        visits.set(&one);
        assert!(visits.contains(&one) && !visits.contains(&other));
        assert!(visits.take(&one) && !visits.take(&one));
    }
}
