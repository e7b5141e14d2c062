//! Meshes of real processes: what is written through one node is read on all, a mesh that is killed as a whole comes
//! back by itself, bad lines between nodes cost time and nothing else, a data dir has one owner, and a node keeps its
//! resources bounded.

#[cfg(test)]
#[expect(dead_code, reason = "each test binary uses its own part of the harness")]
#[path = "../support/mod.rs"]
mod support;

#[cfg(test)]
mod cold_mesh;
#[cfg(test)]
mod drain;
#[cfg(test)]
mod dying_peers;
#[cfg(test)]
mod exclusivity;
#[cfg(test)]
mod joining;
#[cfg(test)]
mod large;
#[cfg(test)]
mod network;
#[cfg(test)]
mod opening;
#[cfg(test)]
mod pressure;
#[cfg(test)]
mod recovery;
#[cfg(test)]
mod replication;
#[cfg(test)]
mod resources;
#[cfg(test)]
mod stuck_peers;
