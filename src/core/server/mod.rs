//! The listeners of a running node: public plane, internal plane, probes, control socket; start-up and drain.

pub mod drain;
pub mod metrics;
pub mod node;
pub mod probes;
pub mod public;
pub mod startup_status;
