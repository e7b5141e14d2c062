//! Catching up from peers: one engine behind `serve` and `kura bootstrap`.
//!
//! How it works: a pass over a peer ([`pass`]) takes all its tombstones, then page after page from a
//! [`source::ManifestSource`]: the walk of a seed-era peer or the feed of a kura peer. Each page is compared with the
//! store ([`plan`]), what is missing is fetched into staging, verified and committed ([`settle`], [`fetch`]), and only then does the
//! cursor move. `serve` runs passes and then follows ([`follow`]); `kura bootstrap` runs rounds of passes
//! ([`catch_up`]) and prints a [`report`].
//!
//! Invariants: a failing artifact never stops the others; what is applied is never fetched again; a cursor passes a row
//! only when its item is settled or durably noted as wanted; one artifact is fetched once however many peers list it;
//! every staged byte is inside the ledger and owned by a guard.

mod at_hand;
mod beside;
pub mod bounds;
mod bulk;
pub mod catch_up;
pub mod cut;
pub mod engine;
pub mod fetch;
pub mod flight;
pub mod follow;
mod groups;
mod holders;
pub mod lanes;
pub mod large;
pub mod metrics;
pub mod open;
pub mod pass;
mod pass_permit;
pub mod plan;
mod portions;
pub mod progress;
pub mod push;
pub mod read_through;
pub mod report;
pub(crate) mod retry;
mod seed_turns;
mod settle;
pub mod source;
pub mod source_backfill;
pub mod source_feed;
mod source_plan;
pub mod source_walk;
mod walk_down;
pub mod walked;
pub mod wanted;
