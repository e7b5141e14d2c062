//! Parse, run, exit.

use std::panic::catch_unwind;
use std::process::ExitCode;

use kura::commands::entry;
use kura::commands::exit::ExitCode as KuraExit;
use kura::core::base::memory::keep_transfer_buffers;
use kura::core::config::Variables;

fn main() -> ExitCode {
    keep_transfer_buffers();
    let args: Vec<_> = std::env::args_os().collect();
    // A panic has said its words on stderr by now; the code is the documented one for what nobody expected.
    let ended = catch_unwind(|| entry::run(&args, Variables::new(std::env::vars_os())));
    ExitCode::from(ended.unwrap_or(KuraExit::Unexpected.code()))
}
