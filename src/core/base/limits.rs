//! The bounds that hold for every part, each with its name, unit and reason. Bounds of one part live in that part.

use std::time::Duration;

/// Connecting to a peer, DNS answer excluded.
pub const PEER_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A transfer is dropped after this long without a byte. There is no total timeout anywhere: slow is not dead.
pub const NO_PROGRESS_TIMEOUT: Duration = Duration::from_secs(60);

/// A peer that made no progress for this long no longer holds back readiness; it is named and retried.
pub const PEER_EXCUSED_AFTER: Duration = Duration::from_secs(120);

/// Longest namespace, in bytes of UTF-8.
pub const NAMESPACE_BYTES_MAX: usize = 256;

/// Longest key, in bytes of UTF-8.
pub const KEY_BYTES_MAX: usize = 1024;

/// Longest content type, in bytes.
pub const CONTENT_TYPE_BYTES_MAX: usize = 256;

/// Most attributes one artifact carries, and the most bytes in all of them together.
pub const ATTRIBUTES_MAX: usize = 16;
/// See [`ATTRIBUTES_MAX`].
pub const ATTRIBUTE_BYTES_MAX: usize = 2048;

/// Largest body of any route and of any peer row.
pub const BODY_BYTES_MAX: u64 = 2 << 30;

/// A peer's row further ahead of our clock than this is skipped and reported, and never moves our clock.
pub const CLOCK_SKEW_MAX_MS: u64 = 48 * 3600 * 1000;

/// Largest page, digest or tombstone response taken from a peer.
pub const PEER_PAGE_BYTES_MAX: u64 = 32 << 20;

/// Reads that arrive before the store is open wait this long.
pub const STORE_OPEN_WAIT: Duration = Duration::from_secs(10);
