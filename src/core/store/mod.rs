//! The store: artifacts with their manifests, their order of arrival, and what was deleted.
//!
//! How it works: one committer thread takes every change, checks it against what is there, makes bodies durable,
//! writes one RocksDB batch and only then answers and publishes the new head.
//!
//! Invariants: a manifest exists only after its body is durable; readers of the log never see rows above the head;
//! every read filters by tombstones.

pub mod committer;
pub mod cursor;
pub mod error;
pub mod record;
pub mod store_handle;
pub mod walk;
pub mod wanted;

mod facade;

pub use facade::{FileBody, OpenBody, OpenReport, Store, StoreOptions, StoreStats, Wants};
