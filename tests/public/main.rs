//! The public plane over real sockets: a node in this process, on a free port, over a directory of its own.

mod bad_input;
mod corruption;
mod harness;
mod requests;
mod startup;
mod tools;
mod vanishing;
