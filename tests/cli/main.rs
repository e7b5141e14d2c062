//! The command line as a user and a script meet it: the real binary, its exit codes, its screens, its errors.

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
mod settings;
#[cfg(test)]
mod usage;
