//! Everything kura knows how to do, with no word about terminals: values in, values out.
//!
//! Layers from top to bottom; a module may use only what stands below it.

pub mod server;

pub mod doctor;

pub mod bootstrap;

pub mod mesh;

pub mod store;

pub mod staging;

pub mod data_dir;

pub mod config;

pub mod telemetry;

pub mod base;
