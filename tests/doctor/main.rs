//! `kura doctor` against real nodes: it finds what was really broken, is quiet when nothing is, and changes nothing,
//! whatever state the data dir and its volume are in.

#[cfg(test)]
#[expect(dead_code, reason = "each test binary uses its own part of the harness")]
#[path = "../support/mod.rs"]
mod support;

#[cfg(test)]
mod artifact;
#[cfg(test)]
mod bundle;
#[cfg(test)]
mod command;
#[cfg(test)]
mod doctor;
#[cfg(test)]
mod live;
#[cfg(test)]
mod mesh;
#[cfg(test)]
mod offline;
#[cfg(test)]
mod volumes;
