//! Why a node did not start, or ended other than by a drain. The command maps each to its exit code.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::core::base::port_holder::PortHolder;
use crate::core::data_dir::layout::EnsureError;
use crate::core::data_dir::lock::{LockError, LockHolder};
use crate::core::store::error::StoreError;

/// What ended `kura serve`.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Another process has the data dir. The words are those the seed era's scripts look for.
    #[error("failed to acquire writer lock on {}: held by {holder}", path.display())]
    Locked {
        /// The lock file or the data dir.
        path: PathBuf,
        /// Who holds it.
        holder: Box<LockHolder>,
    },
    /// The lock could not be tried.
    #[error("failed to lock the data directory")]
    Lock(#[source] LockError),
    /// A listener's address is taken.
    #[error("failed to listen on {address}: the address is taken{}", by(holder.as_ref()))]
    PortTaken {
        /// The wanted address.
        address: SocketAddr,
        /// Who has it, if that can be seen.
        holder: Option<PortHolder>,
    },
    /// A listener could not be bound for another reason.
    #[error("failed to listen on {address}")]
    Bind {
        /// The wanted address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The data dir holds something else.
    #[error("{} is not a kura data directory: it holds other things", path.display())]
    NotADataDir {
        /// The data dir.
        path: PathBuf,
    },
    /// The data dir was written by something this binary cannot use.
    #[error("{} cannot be used by this version: {reason}", path.display())]
    Incompatible {
        /// The data dir.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// The volume is full past all remedies of start-up.
    #[error("no space left on the volume of {}: {free_bytes} bytes are free", path.display())]
    DiskFull {
        /// The data dir.
        path: PathBuf,
        /// Free bytes after staging was reclaimed.
        free_bytes: u64,
    },
    /// A directory could not be looked at or made.
    #[error("failed to prepare the data directory")]
    Directories(#[source] EnsureError),
    /// The data dir could not be looked at.
    #[error("failed to read the data directory {}", path.display())]
    DataDir {
        /// The data dir.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The store could not be opened.
    #[error("failed to open the store")]
    Store(#[source] StoreError),
    /// Signals cannot be listened for.
    #[error("failed to install signal handlers")]
    Signals(#[source] std::io::Error),
}

impl ServeError {
    /// What the next look at the data dir should know: the store's files could not be written or read. The other ends
    /// can be seen again by whoever looks.
    pub(super) fn trouble(&self) -> Option<String> {
        match self {
            Self::Store(
                error @ (StoreError::Io { .. } | StoreError::Index { .. } | StoreError::WriteStopped { .. }),
            ) => Some(chain(error)),
            _ => None,
        }
    }
}

/// The error and what caused it, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

impl From<LockError> for ServeError {
    fn from(error: LockError) -> Self {
        match error {
            LockError::Held { path, holder } => Self::Locked { path, holder },
            other => Self::Lock(other),
        }
    }
}

fn by(holder: Option<&PortHolder>) -> String {
    holder.map_or_else(String::new, |holder| format!(" by {holder}"))
}
