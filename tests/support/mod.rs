//! What the tests with real processes share: nodes, meshes, a plain HTTP client, bodies made from a seed, and looks at
//! what a node holds.
//!
//! How it works: a test binary includes this folder as a module of its own (`mod support;`), under `cfg(test)` so that
//! the lints know it for test code. Nothing here asserts what a test claims; it only makes the claim easy to write. What
//! goes wrong panics with what was awaited, and a node that is dropped by a panic prints the end of its log.

pub mod bodies;
pub mod holdings;
pub mod http;
pub mod inspect;
pub mod memory_group;
pub mod mesh;
pub mod namespaces;
pub mod node;
pub mod ports;
pub mod relay;
pub mod throttle;
pub mod traffic;
pub mod wait;
