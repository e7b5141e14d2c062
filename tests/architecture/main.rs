//! The rules of the house that a compiler does not know: which way arrows point, what `core` never uses, and how large
//! files and functions may be. Read from the source text, which rustfmt has laid out.

#[cfg(test)]
mod source;

use std::collections::BTreeSet;
use std::fmt::Write as _;

#[cfg(test)]
use source::{SourceFile, files_below};

/// The layers of `src/core` from the top; a module uses only what stands below it.
const LAYERS: [&str; 10] =
    ["server", "doctor", "bootstrap", "mesh", "store", "staging", "data_dir", "config", "telemetry", "base"];

/// What only `commands` may use: `core` computes and never prints.
const FORBIDDEN_IN_CORE: [&str; 12] = [
    "clap::",
    "clap_complete::",
    "indicatif::",
    "comfy_table::",
    "owo_colors::",
    "anstream::",
    "println!",
    "eprintln!",
    "print!(",
    "eprint!(",
    "dbg!(",
    "crate::commands",
];

/// Lines of a file, tests left out.
const FILE_LINES_MAX: usize = 600;

/// Lines of a function, from its `fn` to its closing brace.
const FUNCTION_LINES_MAX: usize = 70;

fn assert_none(violations: &[String], rule: &str) {
    let mut list = String::new();
    for violation in violations {
        let _ = write!(list, "\n  {violation}");
    }
    assert!(violations.is_empty(), "{rule}:{list}");
}

fn rank(layer: &str) -> Option<usize> {
    LAYERS.iter().position(|known| *known == layer)
}

fn upward_arrows(file: &SourceFile) -> Vec<String> {
    let own = file.core_layer().and_then(|layer| rank(&layer));
    let Some(own) = own else { return Vec::new() };
    let arrows = file.core_uses().into_iter();
    let upward = arrows.filter(|(_, layer)| rank(layer).is_none_or(|used| used < own));
    upward.map(|(line, layer)| format!("{}:{line} uses {layer}", file.path)).collect()
}

#[test]
fn arrows_between_layers_point_down_only() {
    let violations: Vec<String> = files_below("src/core").iter().flat_map(upward_arrows).collect();
    assert_none(&violations, &format!("the order is {}", LAYERS.join(" > ")));
}

#[test]
fn every_folder_of_core_is_a_layer() {
    let folders = std::fs::read_dir(source::root().join("src/core")).expect("reading src/core");
    let names = folders.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
    let strangers: Vec<String> = names.filter(|name| name != "mod.rs" && rank(name).is_none()).collect();
    assert_none(&strangers, "not a layer");
}

#[test]
fn core_never_parses_arguments_or_prints() {
    let mut violations = Vec::new();
    for file in files_below("src/core") {
        for (number, line) in file.code_lines() {
            let found = FORBIDDEN_IN_CORE.iter().filter(|word| source::names(line, word));
            violations.extend(found.map(|word| format!("{}:{number} {word}", file.path)));
        }
    }
    assert_none(&violations, "core returns values; commands parse and print");
}

#[test]
fn every_file_says_what_it_is_for() {
    let files = files_below("src").into_iter().chain(files_below("tests"));
    let silent: Vec<String> = files.filter(|file| !file.text.starts_with("//!")).map(|file| file.path).collect();
    assert_none(&silent, "a file opens with a //! header");
}

#[test]
fn a_mod_file_holds_docs_and_re_exports_only() {
    let allowed = ["pub mod ", "mod ", "pub use ", "use ", "#[", "pub(crate) ", "pub(super) ", "    ", "}"];
    let mut violations = Vec::new();
    for file in files_below("src").into_iter().filter(|file| file.path.ends_with("/mod.rs")) {
        let lines = file.code_lines().into_iter();
        let others = lines.filter(|(_, line)| !line.is_empty() && !allowed.iter().any(|start| line.starts_with(start)));
        violations.extend(others.map(|(number, line)| format!("{}:{number} {line}", file.path)));
    }
    assert_none(&violations, "code lives in files with a name");
}

#[test]
fn files_stay_short() {
    let sized = files_below("src").into_iter().map(|file| (file.production_lines().len(), file.path));
    let long = sized.filter(|(lines, _)| *lines > FILE_LINES_MAX);
    let violations: Vec<String> = long.map(|(lines, path)| format!("{path}: {lines} lines")).collect();
    assert_none(&violations, &format!("a file has at most {FILE_LINES_MAX} lines without its tests"));
}

#[test]
fn functions_stay_short() {
    let mut violations = Vec::new();
    for file in files_below("src") {
        let long = file.functions().into_iter().filter(|function| function.lines > FUNCTION_LINES_MAX);
        violations.extend(long.map(|f| format!("{}:{} {} has {} lines", file.path, f.line, f.name, f.lines)));
    }
    assert_none(&violations, &format!("a function has at most {FUNCTION_LINES_MAX} lines"));
}

/// What is quoted as `make …` in a text, without arguments.
fn make_targets_named_in(text: &str) -> BTreeSet<&str> {
    let named = text.split("`make ").skip(1);
    named.filter_map(|rest| rest.split(|c: char| !c.is_ascii_lowercase()).next()).collect()
}

#[test]
fn every_entry_point_that_the_docs_name_or_make_declares_is_there() {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let makefile = read("Makefile");
    let rules: BTreeSet<&str> =
        makefile.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name).collect();
    let phony = makefile.lines().find_map(|line| line.strip_prefix(".PHONY:")).expect("a list of entry points");
    let mut named: BTreeSet<String> = phony.split_whitespace().map(ToOwned::to_owned).collect();
    for path in ["README.md", "docs/architecture.md", "docs/operations.md", "docs/performance.md", "docs/protocols.md"]
    {
        named.extend(make_targets_named_in(&read(path)).into_iter().map(ToOwned::to_owned));
    }
    assert!(named.contains("test") && named.contains("soak"));
    let missing: Vec<&String> = named.iter().filter(|name| !rules.contains(name.as_str())).collect();
    assert!(missing.is_empty(), "no rule for {missing:?}");
}

#[test]
fn the_reader_sees_an_upward_arrow_in_every_spelling() {
    let spellings = [
        "use crate::core::mesh::wire::Page;",
        "use crate::core::{base::ids::StoreId, mesh};",
        "use crate::core::{\n    base::ids::StoreId,\n    mesh::wire::{A, B},\n};",
        "fn f() -> crate::core::mesh::wire::Page {\n}",
        "use super::super::mesh::wire;",
        "use super::super::{base, mesh};",
    ];
    for text in spellings {
        let file = SourceFile::new("src/core/staging/area.rs", &format!("//! x\n{text}\n"));
        assert_eq!(upward_arrows(&file).len(), 1, "{text}");
    }
    let fine = "//! See `crate::core::mesh`.\nuse crate::core::base::ids;\nuse super::budget;\n\
                #[cfg(test)]\nmod tests {\n    use crate::core::mesh;\n}\n";
    assert_eq!(upward_arrows(&SourceFile::new("src/core/staging/area.rs", fine)), [""; 0]);
}

#[test]
fn the_reader_measures_functions_without_tests() {
    let text = "//! x\n\nimpl A {\n    pub async fn long(\n        a: u8,\n    ) -> u8 {\n        a\n    }\n\n    fn declared();\n}\n\n\
                #[cfg(test)]\nmod tests {\n    fn test_only() {\n    }\n}\n";
    let functions = SourceFile::new("src/x.rs", text).functions();
    let seen: Vec<(&str, usize, usize)> = functions.iter().map(|f| (f.name.as_str(), f.line, f.lines)).collect();
    assert_eq!(seen, [("long", 4, 5)]);
}
