//! Metrics and logs: what a node tells about itself while it runs.

pub mod logging;
pub mod metrics;
pub mod process;
pub mod recent;
pub mod repeated;
