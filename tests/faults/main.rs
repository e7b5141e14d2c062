//! Real volumes filled to the last byte: what a node and its tools do where nothing can be written any more.
//!
//! The volumes are loop mounts of 64 MiB, ext4 and XFS, so these tests need root and loop devices. Where they cannot be
//! had the tests fail and say so; nothing is skipped.

#[cfg(test)]
#[expect(dead_code, reason = "each test binary uses its own part of the harness")]
#[path = "../support/mod.rs"]
mod support;

#[cfg(test)]
mod damage;
#[cfg(test)]
mod disk_load;
#[cfg(test)]
mod failing_volume;
#[cfg(test)]
mod full_volume;
#[cfg(test)]
mod left_behind;
#[cfg(test)]
mod live;
#[cfg(test)]
mod matrix;
#[cfg(test)]
mod power_loss;
#[cfg(test)]
mod power_loss_catch_up;
#[cfg(test)]
mod power_loss_serving;
#[cfg(test)]
mod real_disks;
#[cfg(test)]
mod reclaim;
#[cfg(test)]
mod scenarios;
#[cfg(test)]
mod small_volumes;
#[cfg(test)]
mod space;
#[cfg(test)]
mod step_check;
#[cfg(test)]
mod step_disk;
#[cfg(test)]
mod step_node;
#[cfg(test)]
mod steps;
#[cfg(test)]
mod volume;
#[cfg(test)]
mod write_stopped;
