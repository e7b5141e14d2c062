//! Artifacts this store knows of and does not have: durable, bounded rows with reason, attempts and next try.

use crate::core::base::ids::{ArtifactId, Version};

/// Why an artifact is wanted and not here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WantedReason {
    /// Every known holder answered that it has no good copy.
    Unavailable,
    /// A holder is down.
    WaitingForPeer,
    /// Transport trouble; retried with back-off.
    Failed,
    /// Wrong length or digest everywhere.
    BadCopy,
    /// It would be evicted at once.
    BeyondCapacity,
    /// Withdrawn here because its body was bad.
    Withdrawn,
}

/// One wanted artifact.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Wanted {
    /// Which artifact.
    pub id: ArtifactId,
    /// The newest version known.
    pub version: Version,
    /// Its size in bytes, as the holder says.
    pub size: u64,
    /// Producer, namespace and key, for people.
    pub name: (String, String, String),
    /// URLs of peers that listed it.
    pub holders: Vec<String>,
    /// Why it is not here.
    pub reason: WantedReason,
    /// The last error, for people.
    pub error: Option<String>,
    /// Tries so far.
    pub attempts: u32,
    /// Unix milliseconds before which it is not tried again.
    pub next_try_ms: u64,
}
