//! Where bytes live before they are committed: owned by a lock or an open file, counted in one ledger, reclaimable.

pub mod area;
pub mod body_writer;
pub mod budget;
pub mod inventory;
pub mod multipart;
pub mod parked;
mod part_files;
pub mod partials;
pub mod reclaim;
pub mod removal;
mod spool;
pub mod staged_file;
#[cfg(test)]
mod stress_tests;
