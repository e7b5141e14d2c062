//! How results look: tables, JSON and progress.

pub mod bootstrap;
pub mod bootstrap_progress;
pub mod doctor;
pub mod doctor_artifact;
pub mod mesh;
pub mod reclaim;
pub mod reclaim_bar;
pub mod table;
pub mod verify_bar;
pub mod words;
