//! What can go wrong in the store.

use std::path::PathBuf;

/// A store operation that did not happen, and why.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file operation failed.
    #[error("failed to {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// No room: what failed would succeed once space is freed.
    #[error("no space left on the volume of {path}")]
    StorageFull {
        /// The data dir.
        path: PathBuf,
    },
    /// RocksDB refused.
    #[error("the index at {path} failed: {message}")]
    Index {
        /// The index folder.
        path: PathBuf,
        /// RocksDB's status.
        message: String,
    },
    /// What is there of the index cannot be read: opening it for writing makes it anew.
    #[error("the index at {path} is damaged: {message}")]
    IndexDamaged {
        /// The index folder.
        path: PathBuf,
        /// RocksDB's status.
        message: String,
    },
    /// The data dir was written by something this binary cannot read.
    #[error("{path} has an incompatible format: {reason}")]
    Incompatible {
        /// What was read.
        path: PathBuf,
        /// Which format or feature.
        reason: String,
    },
    /// The data dir's identity cannot be read as one, or is missing beside data.
    #[error("the identity of {path} is damaged: {reason}")]
    CorruptIdentity {
        /// The data dir.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The folder holds something else.
    #[error("{path} is not a kura data dir: {reason}")]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// A row does not decode.
    #[error("a row of {table} does not decode: {reason}")]
    CorruptRow {
        /// The column family.
        table: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The store stopped accepting writes, for instance after a failed sync.
    #[error("the store has stopped accepting writes: {reason}")]
    WriteStopped {
        /// The first error.
        reason: String,
    },
    /// The store is not open, or closing.
    #[error("the store is not open")]
    NotOpen,
}
