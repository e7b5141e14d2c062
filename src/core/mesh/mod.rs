//! The mesh: who the peers are, how they are reached, what is said on the wire, and whether this node is ready.

pub mod discovery;
pub mod membership;
pub mod readiness;
pub mod transport;
pub mod wire;
