//! Where to cut what a peer lists by id: the version from which on it has room here, if all of it has not.
//!
//! How it works: a listing in the order of ids comes in no order of age, so a node that fetched as it is listed would fill
//! itself with anything and evict half of it again. But ids are hashes: the first rows of such a listing are an even
//! sample of it. What of them is missing here and a sample of what is here make a histogram of bytes by version; the
//! newest of it that fit stay, and what is older than all those is passed over.
//!
//! Invariant: what is passed over is not noted as wanted. A later walk looks again, with another sample.

use crate::core::store::fitting::Weight;

/// Rows of each sample: the share of them that is newer than some version is off by a percent or two.
pub const SAMPLE_ROWS: usize = 4096;

/// Of a hundred parts of the capacity so many are filled: what a sample is off by must not begin an eviction.
const FILL_PERCENT: u64 = 95;

/// What is known of a listing, of what is here, and of the room.
#[derive(Debug, Default)]
pub struct Histogram {
    /// What is missing here, each of the rows sampled for as many as it stands for.
    pub missing: Vec<Weight>,
    /// What is here.
    pub held: Vec<Weight>,
    /// What bodies take here.
    pub charged_bytes: u64,
    /// What they may take.
    pub capacity_bytes: u64,
}

impl Histogram {
    /// What is older than this has no room; 0 = all of it has.
    pub fn cut_ms(&self) -> u64 {
        let missing_bytes = self.missing.iter().fold(0_u64, |sum, weight| sum.saturating_add(weight.bytes));
        if self.charged_bytes.saturating_add(missing_bytes) <= self.capacity_bytes {
            return 0;
        }
        let mut all = [self.missing.as_slice(), &self.held].concat();
        all.sort_unstable_by_key(|weight| std::cmp::Reverse(weight.version_ms));
        let (mut left, mut cut_ms) = (self.capacity_bytes / 100 * FILL_PERCENT, 0);
        for weight in all {
            match left.checked_sub(weight.bytes) {
                Some(rest) => (left, cut_ms) = (rest, weight.version_ms),
                None => return cut_ms,
            }
        }
        0
    }
}

/// How much of a listing by ids lies up to this one: the whole, and the part.
pub fn part_up_to(last_id: &str) -> (u64, u64) {
    let digits = last_id.get(..8).and_then(|digits| u64::from_str_radix(digits, 16).ok());
    (1 << 32, digits.unwrap_or(u64::MAX >> 32) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights(versions: std::ops::Range<u64>, bytes: u64) -> Vec<Weight> {
        versions.map(|version_ms| Weight { version_ms, bytes }).collect()
    }

    #[test]
    fn what_fits_is_not_cut_and_of_twice_as_much_the_newer_half_stays() {
        let missing = weights(0..100, 10);
        let histogram = |charged_bytes, capacity_bytes| {
            let (missing, held) = (missing.clone(), Vec::new());
            Histogram { missing, held, charged_bytes, capacity_bytes }
        };
        assert_eq!(histogram(0, 1000).cut_ms(), 0);
        assert_eq!(histogram(0, 500).cut_ms(), 53, "47 of them are 95 of 100 parts of 500 bytes");
        assert_eq!(histogram(1, 1000).cut_ms(), 5);
        assert_eq!(histogram(0, 5).cut_ms(), 0, "nothing fits: the store's own rule decides");
    }

    #[test]
    fn a_sample_stands_for_all_and_what_is_here_counts_by_its_age() {
        let sampled = weights(0..100, 10).into_iter().map(|weight| weight.scaled(150, 100)).collect();
        let half = Histogram { missing: sampled, capacity_bytes: 800, ..Histogram::default() };
        assert_eq!(half.cut_ms(), 50);
        let full = |held| Histogram { missing: weights(100..200, 10), held, charged_bytes: 1000, capacity_bytes: 1000 };
        assert_eq!(full(weights(0..100, 10)).cut_ms(), 105, "what is older here gives way");
        assert_eq!(full(weights(200..300, 10)).cut_ms(), 205, "what is newer here stays");
        assert_eq!(full(weights(200..250, 10)).cut_ms(), 155);
    }

    #[test]
    fn the_place_of_an_id_says_how_much_of_a_listing_lies_before_it() {
        let ratio = |id| {
            let (all, part) = part_up_to(id);
            all / part
        };
        assert_eq!((ratio("ffffffffff"), ratio("7fffffffff"), ratio("000fffff00")), (1, 2, 4096));
        assert_eq!(ratio("short"), 1, "what is no id is the end of the listing");
    }
}
