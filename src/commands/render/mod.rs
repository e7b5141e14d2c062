//! How results look: tables, JSON and progress.
