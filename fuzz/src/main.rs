//! libFuzzer over the targets of `tests/fuzz`; `KURA_FUZZ_TARGET` says over which one.

#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/fuzz/multipart.rs"]
mod multipart;
#[path = "../../tests/fuzz/targets.rs"]
mod targets;

use targets::{TARGETS, Target};

static TARGET: OnceLock<Target> = OnceLock::new();

fn chosen() -> Target {
    let name = std::env::var("KURA_FUZZ_TARGET").unwrap_or_default();
    let found = TARGETS.iter().find(|(candidate, _)| *candidate == name);
    let known = TARGETS.map(|(name, _)| name).join(" ");
    found.unwrap_or_else(|| panic!("KURA_FUZZ_TARGET={name} is none of: {known}")).1
}

fuzz_target!(|data: &[u8]| {
    TARGET.get_or_init(chosen)(data);
});
