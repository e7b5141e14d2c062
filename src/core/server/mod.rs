//! The listeners of a running node: public plane, internal plane, probes, control socket; start-up and drain.
//!
//! [`startup::serve`] is the whole of `kura serve`; [`startup::start`] is the same without signals, for tests.

mod connection_watch;
pub mod control;
pub mod doctor_watch;
pub mod drain;
pub mod file_reader;
pub mod internal;
pub mod listener;
pub mod live_metrics;
pub mod mesh_wiring;
pub mod metrics;
pub mod node;
pub mod probes;
pub mod public;
pub mod serve_error;
pub mod signals;
pub mod startup;
pub mod startup_status;

mod readiness_log;
mod reclaim;
mod run_state;
mod space_keeper;
mod space_metrics;
mod store_heartbeat;
mod store_keeper;
mod watched_stream;
