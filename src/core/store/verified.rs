//! Which body files were hashed and found good by this process: one bit per body number.
//!
//! Memory: 512 bytes per extent of 4,096 numbers, 1.3 MB for ten million bodies. Bits of bodies that went are forgotten,
//! so extents without any left take nothing.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use super::keys::{EXTENT_BITS, extent_of};
use crate::core::base::ids::BodyNo;

const WORDS: usize = (1 << EXTENT_BITS) / 64;

/// The bits.
#[derive(Debug, Default)]
pub(crate) struct VerifiedBodies(RwLock<HashMap<u64, Box<[u64; WORDS]>>>);

fn position(body_no: BodyNo) -> (usize, u64) {
    let within = body_no.0 & ((1 << EXTENT_BITS) - 1);
    (usize::try_from(within / 64).unwrap_or(0), 1 << (within % 64))
}

impl VerifiedBodies {
    /// Whether the body was found good.
    pub(crate) fn contains(&self, body_no: BodyNo) -> bool {
        let (word, bit) = position(body_no);
        let extents = self.0.read().unwrap_or_else(PoisonError::into_inner);
        extents.get(&extent_of(body_no)).and_then(|words| words.get(word)).is_some_and(|word| word & bit != 0)
    }

    /// Notes that it is good.
    pub(crate) fn insert(&self, body_no: BodyNo) {
        let (word, bit) = position(body_no);
        let mut extents = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let words = extents.entry(extent_of(body_no)).or_insert_with(|| Box::new([0; WORDS]));
        if let Some(word) = words.get_mut(word) {
            *word |= bit;
        }
    }
}

impl VerifiedBodies {
    /// Forgets a body that is gone; its number is never used again.
    pub(crate) fn remove(&self, body_no: BodyNo) {
        let (word, bit) = position(body_no);
        let mut extents = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let Some(words) = extents.get_mut(&extent_of(body_no)) else { return };
        if let Some(word) = words.get_mut(word) {
            *word &= !bit;
        }
        if words.iter().all(|word| *word == 0) {
            extents.remove(&extent_of(body_no));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_has_its_own_bit() {
        let verified = VerifiedBodies::default();
        for number in [0, 63, 64, 4095, 4096, 1 << 40] {
            assert!(!verified.contains(BodyNo(number)));
            verified.insert(BodyNo(number));
            assert!(verified.contains(BodyNo(number)));
            assert!(!verified.contains(BodyNo(number + 1)));
        }
    }

    #[test]
    fn what_is_gone_is_forgotten_and_an_empty_extent_takes_nothing() {
        let verified = VerifiedBodies::default();
        verified.insert(BodyNo(7));
        verified.insert(BodyNo(4095));
        verified.remove(BodyNo(7));
        verified.remove(BodyNo(1 << 40));
        assert!(!verified.contains(BodyNo(7)) && verified.contains(BodyNo(4095)));
        verified.remove(BodyNo(4095));
        assert!(verified.0.read().unwrap().is_empty());
    }
}
