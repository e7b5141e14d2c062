//! The mesh: who the peers are, how they are reached, what is said on the wire, and whether this node is ready.

pub mod bulk_frames;
pub mod circuit;
pub mod client;
pub mod discovery;
pub mod feed_frames;
pub mod holdings;
pub mod http_transport;
pub mod membership;
pub mod memory_transport;
pub mod rate_limit;
pub mod reach;
pub mod readiness;
mod readiness_view;
pub mod reasons;
pub mod transport;
pub mod wire;
