//! Settings, resolved once: flags, `KURA_*` variables and an optional TOML file become one immutable [`Config`].
//!
//! How it works: [`SETTINGS`] is the one list. The flags of the command line, the variables, the keys of the file and
//! the README's table all come from it. [`resolve`] takes what was given as values, picks the highest source for each
//! setting (flag, variable, file, default), reads it, checks that the whole makes sense, and answers with every fault
//! at once.
//!
//! Invariants: nothing below `commands` reads the environment or a flag; it is handed a [`Config`] or a part of it.
//! Resolving opens no port, makes no folder and writes nothing.

mod checks;
mod errors;
mod file;
mod machine;
mod model;
mod nearest;
mod resolve;
mod secret;
mod settings;
mod values;
mod variables;

pub use errors::{ConfigErrors, ConfigFault, ConfigWarning, Folders};
pub use file::ConfigFile;
pub use machine::Machine;
pub use model::{Config, Durability};
pub use nearest::nearest;
pub use resolve::{Inputs, Resolved, ResolvedSetting, Source, resolve};
pub use secret::Secret;
pub use settings::{Group, Kind, SETTINGS, Setting, markdown_table, setting};
pub use variables::Variables;
