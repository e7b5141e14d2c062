//! Where bytes live before they are committed: owned by a lock or an open file, counted in one ledger, reclaimable.

pub mod area;
pub mod body_writer;
pub mod budget;
pub mod inventory;
pub mod multipart;
mod part_files;
pub mod reclaim;
pub mod staged_file;
#[cfg(test)]
mod stress_tests;
