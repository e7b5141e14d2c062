//! The one committer: every change of the store passes through it, in order.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::error::StoreError;
use super::record::{ArtifactKey, Kind, Record};
use crate::core::base::ids::{ArtifactId, BodyNo, StoreId};
use crate::core::staging::body_writer::StagedBody;

/// How a put meets an artifact that is already there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutMode {
    /// The first one stays.
    WriteOnce,
    /// The newer version replaces it.
    LastWriterWins,
}

/// What decides a put's version.
#[derive(Debug, Clone)]
pub enum PutOrigin {
    /// A client of this node: the committer stamps max(now, this key's + 1, the namespace's tombstone + 1).
    Local(PutMode),
    /// A peer: the record's own version counts; `version_ms` 0 is stamped now.
    Replicated {
        /// Unix milliseconds from the peer.
        version_ms: u64,
        /// See `Record::logical`.
        logical: u16,
        /// When the artifact was first made.
        created_at_ms: u64,
        /// The store that accepted the write; zero for seed-era peers.
        origin: StoreId,
    },
}

/// Fields of a peer's record that this node keeps and hands on without acting on them; empty for local writes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Carried {
    /// See `Record::flags`.
    pub flags: u64,
    /// See `Record::expires_at_ms`.
    pub expires_at_ms: Option<u64>,
    /// See `Record::unknown`.
    pub unknown: Vec<(u64, Vec<u8>)>,
}

/// A verified body with its name, to be committed.
#[derive(Debug)]
pub struct Put {
    /// Producer, namespace, key.
    pub name: ArtifactKey,
    /// What it is.
    pub kind: Kind,
    /// Content type to serve.
    pub content_type: String,
    /// Small texts to keep and return.
    pub attributes: BTreeMap<String, String>,
    /// What else its record carries.
    pub carried: Carried,
    /// The bytes, whole and hashed.
    pub body: StagedBody,
    /// Version rule.
    pub origin: PutOrigin,
}

/// A change of the store.
#[derive(Debug)]
pub enum Operation {
    /// Store an artifact.
    Put(Box<Put>),
    /// The bytes of this version are already here under an older one: take over the newer version without a body.
    AdoptVersion(Box<Record>),
    /// Delete a namespace up to a version; `version_ms` `None` or 0 is stamped now.
    DeleteNamespace {
        /// The namespace; empty = the tenant-wide one.
        namespace: String,
        /// Unix milliseconds of the delete.
        version_ms: Option<u64>,
    },
    /// Delete one artifact whose body proved missing, short or corrupt; compare-and-delete on (id, body_no).
    Withdraw {
        /// Which artifact.
        id: ArtifactId,
        /// Which body of it.
        body_no: BodyNo,
        /// What was found.
        reason: String,
    },
}

/// What a change came to. Boxed records are what the store holds now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommitOutcome {
    /// Stored or adopted; the record is new.
    Applied(Box<Record>),
    /// Write-once and already there.
    AlreadyPresent(Box<Record>),
    /// An equal or newer version is there.
    Stale(Box<Record>),
    /// Adopting only: these bytes are not here, the artifact has to be fetched.
    BodyNeeded,
    /// A tombstone beats this version.
    Tombstoned,
    /// This version was evicted here; it is not wanted again.
    Evicted,
    /// The peer's version is too far ahead of our clock.
    ClockSkew {
        /// Unix milliseconds the peer gave.
        version_ms: u64,
    },
    /// The namespace's tombstone is durable.
    Deleted {
        /// The version of the tombstone.
        version_ms: u64,
    },
    /// The namespace already had a newer tombstone.
    DeleteIgnored,
    /// The body was withdrawn, or (false) another one had taken its place.
    Withdrawn(bool),
}

/// Resolves once the change is durable and visible, or is refused.
#[derive(Debug)]
pub struct CommitTicket(pub(crate) tokio::sync::oneshot::Receiver<Result<CommitOutcome, StoreError>>);

impl Future for CommitTicket {
    type Output = Result<CommitOutcome, StoreError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|answer| answer.unwrap_or(Err(StoreError::NotOpen)))
    }
}

/// Resolves once every put of a batch is visible or refused; the outcomes are in the order of the puts.
#[derive(Debug)]
pub struct BatchTicket(pub(crate) tokio::sync::oneshot::Receiver<Vec<Result<CommitOutcome, StoreError>>>);

impl Future for BatchTicket {
    type Output = Result<Vec<Result<CommitOutcome, StoreError>>, StoreError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|answer| answer.map_err(|_| StoreError::NotOpen))
    }
}

impl CommitTicket {
    /// The ticket of a change that no committer takes.
    pub(crate) fn refused() -> Self {
        Self(tokio::sync::oneshot::channel().1)
    }

    /// Blocks until the outcome is known; for blocking callers only.
    pub fn wait(mut self) -> Result<CommitOutcome, StoreError> {
        use tokio::sync::oneshot::error::TryRecvError;
        match self.0.try_recv() {
            Ok(answer) => answer,
            Err(TryRecvError::Closed) => Err(StoreError::NotOpen),
            Err(TryRecvError::Empty) => self.0.blocking_recv().unwrap_or(Err(StoreError::NotOpen)),
        }
    }
}
