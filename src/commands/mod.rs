//! The command line: parse, resolve settings, call `core`, render what it returns, and turn it into an exit code.

pub mod exit;
pub mod printer;
pub mod render;
