//! Whole meshes in one process, driven by a seed: random writes, deletes, faults and crashes, then peace, then proof.
//!
//! How it works: [`scenario`] draws a list of operations from the seed, [`run`] carries them out on nodes that reach
//! each other in memory ([`network`], [`node`]) under paused time, [`watch`] sees that nothing goes back meanwhile, and
//! [`oracle`] knows what must be there in the end.
//! Links harm what passes them or lie ([`lies`]), a node may die at any step ([`fuse`]) and its volume be changed ([`volume`]).
//! All time, chance and blocking work goes through the seams, so a seed replays exactly.
//!
//! `SIM_SEED=n` runs one seed; `SIM_SEEDS=n` runs that many, from `SIM_FIRST` on, with `SIM_UNTIL_FAILURE=1` until one fails.

#[cfg(test)]
mod clock;
#[cfg(test)]
mod fuse;
#[cfg(test)]
mod lies;
#[cfg(test)]
mod network;
#[cfg(test)]
mod node;
#[cfg(test)]
mod oracle;
#[cfg(test)]
mod run;
#[cfg(test)]
mod scenario;
#[cfg(test)]
mod seeds;
#[cfg(test)]
mod volume;
#[cfg(test)]
mod watch;
