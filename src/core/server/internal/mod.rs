//! The internal plane: what peers ask of this node, in the seed era's contract and in kura's own feed.
//!
//! Invariants: it answers in every state, draining included. Listings of the seed era name only the six producers of
//! that era. An artifact that cannot be served whole is a 404 before the first byte, and nothing here asks a peer.

pub mod context;
pub mod router;
pub mod slots;

mod artifact;
pub mod bulk;
mod explain;
mod feed;
mod holdings;
mod listing;
mod query;
mod replicate;
mod reply;
