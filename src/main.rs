//! Parse, run, exit.

use std::process::ExitCode;

use kura::commands::entry;
use kura::core::config::Variables;

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    ExitCode::from(entry::run(&args, Variables::new(std::env::vars_os())))
}
