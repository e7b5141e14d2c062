//! The listeners of a running node: public plane, internal plane, probes, control socket; start-up and drain.

pub mod public;
