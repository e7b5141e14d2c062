//! Whether this node takes traffic, and why not: a state, reasons and per-peer progress. Latches once ready.

/// The seed era's state of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TrafficState {
    /// Not ready yet.
    Joining,
    /// Ready.
    Serving,
    /// Going away.
    Draining,
}
