//! The randomness seam: identities, jitter and epochs are drawn here, so that a simulation replays from its seed.

use std::sync::{Mutex, PoisonError};

use rand::{RngCore, SeedableRng, rngs::StdRng};

/// Where random bytes come from.
pub trait Rng: Send + Sync + std::fmt::Debug {
    /// Fills the slice with random bytes.
    fn fill(&self, bytes: &mut [u8]);
}

/// Draws of common shapes from any [`Rng`].
pub trait RngExt: Rng {
    /// A uniformly drawn number.
    fn next_u64(&self) -> u64 {
        let mut bytes = [0_u8; 8];
        self.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// A number in `0..bound`, 0 when the bound is 0. The bias of the remainder is irrelevant for jitter.
    fn below(&self, bound: u64) -> u64 {
        self.next_u64().checked_rem(bound).unwrap_or(0)
    }

    /// An identifier of `N` random bytes.
    fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0_u8; N];
        self.fill(&mut bytes);
        bytes
    }
}

impl<R: Rng + ?Sized> RngExt for R {}

/// The operating system's randomness, by way of the thread's generator.
#[derive(Debug, Default)]
pub struct SystemRng;

impl Rng for SystemRng {
    fn fill(&self, bytes: &mut [u8]) {
        rand::rng().fill_bytes(bytes);
    }
}

/// A generator that gives the same bytes for the same seed.
#[derive(Debug)]
pub struct SeededRng(Mutex<StdRng>);

impl SeededRng {
    /// Starts the sequence that belongs to the seed.
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(StdRng::seed_from_u64(seed)))
    }
}

impl Rng for SeededRng {
    fn fill(&self, bytes: &mut [u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).fill_bytes(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The contract: whole slices are filled and draws differ.
    fn keeps_the_contract(rng: &dyn Rng) {
        let (one, two) = (rng.bytes::<32>(), rng.bytes::<32>());
        assert_ne!(one, two);
        assert!(one.iter().any(|byte| *byte != 0));
        assert!((0..100).all(|_| rng.below(7) < 7));
        assert_eq!(rng.below(0), 0);
    }

    #[test]
    fn system_and_seeded_generators_keep_the_contract() {
        keeps_the_contract(&SystemRng);
        keeps_the_contract(&SeededRng::new(1));
    }

    #[test]
    fn a_seed_replays() {
        assert_eq!(SeededRng::new(7).bytes::<16>(), SeededRng::new(7).bytes::<16>());
        assert_ne!(SeededRng::new(7).bytes::<16>(), SeededRng::new(8).bytes::<16>());
    }
}
