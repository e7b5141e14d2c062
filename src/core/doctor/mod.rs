//! What is wrong with a node, found without changing anything.
//!
//! How it works: [`checks::ALL`] is an ordered list of checks, one per [`finding::Code`]. [`run::run`] gives each its
//! own thread, time limit and panic guard and gathers [`finding::Finding`]s into a [`report::Report`]. What a check may
//! look at comes from the [`context::Context`]: settings, the names on disk, a read-only index, the answer of a running
//! node ([`live`]) and the peers. [`artifact`] explains a single artifact with the same context.
//!
//! Invariants: nothing here writes: not a log, not a temporary file, not a lock. "Could not check" is neither ok nor
//! failed. A failed check silences only the checks that need what it looked at. Each code has a section in
//! `docs/operations.md`, which is compiled in ([`runbook`]).

pub mod artifact;
pub mod artifact_peers;
pub mod bundle;
pub mod check;
pub mod checks;
pub mod context;
pub mod finding;
pub mod live;
pub mod mesh_view;
pub mod redaction;
pub mod report;
pub mod run;
pub mod runbook;
pub mod sides;
pub mod verify_position;
pub mod watch;

#[cfg(test)]
pub(crate) mod test_support;
