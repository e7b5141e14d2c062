//! The data directory as a place: names on disk, who it is, who holds it, how much room it has.

pub mod ballast;
pub mod capacity;
pub mod identity;
pub mod layout;
pub mod lock;
pub mod run_record;
pub mod space;
pub mod space_watch;
