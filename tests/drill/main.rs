//! The drill: a live mesh of real processes, broken in ten ways, one after another. Each time `kura doctor` has to find
//! the right code, and the command it prints has to be the whole cure.
//!
//! How it works: `faults.rs` breaks, `evening.rs` asks the doctor, takes the command from its JSON and gives it to a
//! shell as a person would paste it. Like a pod's supervisor the drill starts a node again that has ended; it does
//! nothing else for it. One node lies on a small volume in a loop mount, one runs as another user, so root and loop
//! devices are needed; where they cannot be had the drill fails and says so.
//!
//! `make drill` prints the table.

#[cfg(test)]
#[expect(dead_code, reason = "each test binary uses its own part of the harness")]
#[path = "../support/mod.rs"]
mod support;

#[cfg(test)]
#[expect(dead_code, reason = "the volumes of the tests of faults can do more than is needed here")]
#[path = "../faults/volume.rs"]
mod volume;

#[cfg(test)]
mod evening;
#[cfg(test)]
mod faults;
