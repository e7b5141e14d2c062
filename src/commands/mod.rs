//! The command line: parse, resolve settings, call `core`, render what it returns, and turn it into an exit code.
//!
//! How it works: [`entry::run`] is what `main` calls. [`cli`] reads the arguments, [`context::Context`] carries the
//! settings and the [`printer::Printer`] to the one file of each command, and [`exit`] says how it ended.

pub mod bootstrap;
pub mod cli;
pub mod completions;
pub mod context;
pub mod doctor;
pub mod doctor_artifact;
mod doctor_bundle;
pub mod entry;
pub mod exit;
pub mod fatal;
pub mod free_space;
pub mod printer;
pub mod reclaim_staging;
pub mod render;
pub mod serve;
pub mod usage;
