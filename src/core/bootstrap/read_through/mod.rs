//! Reads of what is not here yet: the peers are asked while the client waits, so that a node that is still filling
//! serves the union of what the mesh holds.
//!
//! How it works: a read that misses here goes through ([`ReadThrough::get`]) if the artifact is noted as wanted, or if
//! peers are left whose data is not settled. Those peers are asked at the same time ([`peers`]), the first good answer
//! wins ([`body`]): up to [`BUFFERED_BYTES_MAX`] it is verified in memory and then handed out, and what is longer is
//! streamed with its last piece held back until all of it proved good. Either is committed meanwhile, as if a pass had
//! brought it. Of all reads of one artifact one asks, and the others take its answer.
//!
//! Before our own store is open every peer may have what is asked for. What was deleted here is known by then
//! ([`UnopenedStore`](crate::core::store::unopened::UnopenedStore)); nothing else is, so nothing is kept, an older version
//! than the one here may be handed out, and what no peer has is no miss. A peer whose store is opening may have it, too:
//! it is waited for as long as the client bears, and what nobody else has is [`Through::Undecided`] then.
//!
//! Invariants: nothing unverified ends well. Nothing deleted here comes back. The internal plane never reads through,
//! so requests do not go in circles. Every wait has a bound: for room, for the first round of discovery, for a peer's
//! first byte; there is none on a whole transfer. A peer that let a read wait in vain gets little time for the next.
//!
//! Failure: every other trouble with peers is a miss, counted as what it is. Trouble with committing is logged; the client
//! has its bytes.

mod ask;
mod body;
mod metrics;
mod peers;
mod staged;

pub use ask::{BUFFERED_BYTES_MAX, Delivery, Held, ReadThrough, Through};
pub use body::ThroughError;
pub use metrics::ReadThroughMetrics;
