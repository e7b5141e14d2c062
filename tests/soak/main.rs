//! A mesh of real processes under load whose nodes are killed with -9 again and again, one, two or all at a time.
//!
//! `cargo test --test soak` runs thirty short rounds; `make soak MINUTES=10` or `make soak ROUNDS=n` runs on for as long
//! as asked, with up to three seconds between two kills. The seed is printed, and `SOAK_SEED=n` takes it again: who dies
//! after how long, and what is written, follow from it; what a kill meets in the middle does not.
//!
//! After each kill the data of the dead is counted anew and must equal what they kept account of. As soon as they answer
//! again, each acknowledged write and delete is asked of the node that acknowledged it, and its first answer counts. Then
//! staging is reclaimed twice and nothing must be found. Every few rounds and at the end the load rests until all nodes
//! hold the same, and each key is asked of each node.

#[cfg(test)]
#[expect(dead_code, reason = "each test binary uses its own part of the harness")]
#[path = "../support/mod.rs"]
mod support;

#[cfg(test)]
mod checks;
#[cfg(test)]
mod ledger;
#[cfg(test)]
mod load;
#[cfg(test)]
mod rounds;
