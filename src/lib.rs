//! kura: a build-cache mesh node that heals itself, and the toolkit to operate it.
//!
//! The map of the house: `commands` parses, renders and exits; `core` computes. Inside `core` the arrows point down
//! only, in this order: server, doctor, bootstrap, mesh, store, staging, data_dir, config, telemetry, base. A test
//! reads the `use` lines and fails on an upward one.

pub mod commands;
pub mod core;
