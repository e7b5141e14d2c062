//! The store: artifacts with their manifests, their order of arrival, and what was deleted.
//!
//! How it works: one committer thread takes every change, checks it against what is there, makes bodies durable,
//! writes one RocksDB batch and only then answers and publishes the new head.
//!
//! Invariants: a manifest exists only after its body is durable; readers of the log never see rows above the head;
//! every read filters by tombstones.

pub mod action_closure;
pub mod action_result;
pub mod backfill;
pub mod breaker;
pub mod committer;
pub mod cursor;
pub mod error;
pub mod eviction;
pub mod explain;
pub mod fitting;
pub mod footer;
pub mod integrity;
pub mod metrics;
pub mod reads;
pub mod rebuild;
pub mod record;
pub mod record_codec;
pub mod recount;
pub mod room;
pub mod room_worker;
pub mod salvage;
pub mod set_digest;
pub mod sizes;
pub mod store_handle;
pub mod tombstone_log;
pub mod walk;
pub mod wanted;

mod batch;
mod body_files;
mod body_numbers;
mod body_tables;
mod charge;
mod commit_queue;
mod epochs;
mod evaluate;
mod evaluate_evict;
mod evaluate_purge;
mod evaluate_rows;
mod eviction_tables;
mod eviction_walk;
mod facade;
mod feed_rows;
mod group;
mod holdings;
mod in_memory;
mod index;
mod index_ingest;
mod index_view;
mod integrity_batch;
mod keys;
mod late_sync;
mod lost_deletes;
mod maintenance;
mod metadata_room;
mod open;
mod state;
mod stub_fold;
mod stubs;
mod tagged;
mod thin_tables;
mod trim;
pub mod unopened;
mod verified;
mod version;
mod visits;

pub use eviction::{EvictGoal, EvictReport};
pub use facade::{FileBody, OpenBody, OpenReport, Store, StoreOptions, StoreStats, Wants};

#[cfg(test)]
mod store_tests;

#[cfg(test)]
mod batch_tests;

#[cfg(test)]
mod index_ingest_tests;

#[cfg(test)]
mod fault_tests;

#[cfg(test)]
mod model_tests;

#[cfg(test)]
mod wanted_tests;

#[cfg(test)]
mod corrupt_tests;

#[cfg(test)]
mod integrity_tests;

#[cfg(test)]
mod rebuild_tests;

#[cfg(test)]
mod body_tables_tests;

#[cfg(test)]
mod eviction_tests;

#[cfg(test)]
mod eviction_fault_tests;

#[cfg(test)]
mod eviction_trace_tests;
