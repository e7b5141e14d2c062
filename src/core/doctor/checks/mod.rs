//! The checks, one file per category, and the order in which they run.

pub mod bodies;
pub mod bootstrap;
pub mod budget;
pub mod closure;
pub mod config;
pub mod data_dir;
pub mod diverged;
pub mod index;
pub mod machine;
pub mod memory;
pub mod mesh;
pub mod node;
pub mod node_store;
pub mod one_way;
pub mod peer_names;
pub mod peers;
pub mod read_only;
pub mod replication;
pub mod staging;
pub mod unlinked;
pub mod volume;

mod registry;

pub use registry::ALL;
