//! How results look: tables, JSON and progress.

pub mod table;
pub mod words;
