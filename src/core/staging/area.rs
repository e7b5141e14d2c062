//! The three staging areas under the tmp dir, and the one handle through which bytes are staged.

use std::path::PathBuf;
use std::sync::Arc;

use super::body_writer::{BodySpec, BodyWriter};
use crate::core::base::disk::Disk;
use crate::core::base::executor::StoreExecutor;
use crate::core::data_dir::layout::Layout;

/// One of the areas; the names are those of the seed era, so that either kind reclaims the other's leftovers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AreaKind {
    /// Bodies that clients or seed-era peers send.
    Uploads,
    /// Parts of multipart uploads.
    Parts,
    /// Bodies fetched from peers.
    Bootstrap,
}

impl AreaKind {
    /// All areas.
    pub const ALL: [Self; 3] = [Self::Uploads, Self::Parts, Self::Bootstrap];

    /// The folder's name under the tmp dir.
    pub fn name(self) -> &'static str {
        match self {
            Self::Uploads => "uploads",
            Self::Parts => "parts",
            Self::Bootstrap => "bootstrap",
        }
    }
}

/// Why bytes could not be staged.
#[derive(Debug, thiserror::Error)]
pub enum StagingError {
    /// The ledger stayed full for the whole bounded wait.
    #[error("Temporary storage budget exhausted: {requested} bytes asked, {in_use} of {budget} in use")]
    BudgetExhausted {
        /// Bytes asked for.
        requested: u64,
        /// Bytes reserved by all.
        in_use: u64,
        /// The ledger's size.
        budget: u64,
    },
    /// The body is longer than was allowed or announced.
    #[error("the body is longer than {limit} bytes")]
    TooLong {
        /// The limit it passed.
        limit: u64,
    },
    /// The body ended before its announced length.
    #[error("the body ended after {received} of {expected} bytes")]
    TooShort {
        /// Bytes that arrived.
        received: u64,
        /// Bytes that were announced.
        expected: u64,
    },
    /// No space is left on the volume.
    #[error("no space left on the volume of {path}")]
    StorageFull {
        /// Where it was tried.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Anything else the disk said.
    #[error("failed to {action} in {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// How staging is set up.
#[derive(Debug, Clone)]
pub struct StagingOptions {
    /// The ledger's size in bytes.
    pub budget_bytes: u64,
    /// Bodies up to this many bytes stay in memory and never enter an area.
    pub inline_max_bytes: u64,
    /// How long a client waits for room in the ledger.
    pub client_wait: std::time::Duration,
}

/// The staging areas and their ledger; cheap to clone.
#[derive(Debug, Clone)]
pub struct Staging {
    _layout: Arc<Layout>,
    _disk: Arc<dyn Disk>,
}

impl Staging {
    /// Uses the areas of this layout, which [`crate::core::data_dir::layout`] has made.
    pub fn new(
        layout: &Layout,
        disk: Arc<dyn Disk>,
        executor: Arc<dyn StoreExecutor>,
        options: StagingOptions,
    ) -> Self {
        let _ = (executor, options);
        Self { _layout: Arc::new(layout.clone()), _disk: disk }
    }

    /// Reserves room (waiting as the class allows) and starts a body.
    pub async fn begin(&self, spec: BodySpec) -> Result<BodyWriter, StagingError> {
        let _ = spec;
        todo!()
    }

    /// Bytes reserved in the ledger now.
    pub fn reserved_bytes(&self) -> u64 {
        todo!()
    }
}
