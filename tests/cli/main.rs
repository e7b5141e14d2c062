//! The command line as a user and a script meet it: the real binary, its exit codes, its screens, its errors.

#[cfg(test)]
mod bootstrap;
#[cfg(test)]
mod doctor;
#[cfg(test)]
mod exit_codes;
#[cfg(test)]
mod generated;
#[cfg(test)]
mod kura;
#[cfg(test)]
mod reclaim_staging;
#[cfg(test)]
mod screens;
#[cfg(test)]
#[expect(dead_code, reason = "only a part of the peer's faults is ordered here")]
#[path = "../seed_peer/peer.rs"]
mod seed_peer;
#[cfg(test)]
mod settings;
#[cfg(test)]
mod usage;
