//! The ground floor: identifiers, units, clocks, randomness and disk operations. Knows nothing of kura's parts.

pub mod cgroups;
pub mod clock;
pub mod disk;
pub mod executor;
pub mod ids;
pub mod limits;
pub mod memory;
pub mod port_holder;
pub mod rng;
pub mod tar;
pub mod units;
