//! The public plane: one small adapter file per build tool over one shared get, put, head and delete.
//!
//! How it works: [`router`] maps routes to adapters. An adapter only declares: it turns a request into a
//! [`rule::Target`] (producer, namespace, key and the [`rule::Rule`] of its route) and hands it to [`read`] or
//! [`upload`], which stream, verify, count and answer. [`problem`] turns what went wrong into the shape of error that
//! the tool can bear.
//!
//! Invariants: no adapter touches the store, staging or a body by itself; no body is held whole in memory.

pub mod body;
pub mod observe;
pub mod problem;
pub mod range;
pub mod read;
pub mod request;
pub mod router;
pub mod rule;
pub mod upload;

mod bazel;
mod ccache;
mod clean;
mod closure;
mod gradle;
mod keyvalue;
mod metro;
mod module;
mod nx;
mod opening;
mod turborepo;
mod xcode;

pub use router::router;
