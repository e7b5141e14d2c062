//! What is written from the code and must not drift from it: completions and the README's tables.
//!
//! `KURA_GENERATE=1 cargo test --test cli generated` (or `make generate`) writes them again.

use std::path::{Path, PathBuf};

use kura::commands::completions::{Shell, script};
use kura::commands::exit;
use kura::core::config;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Compares a file with what it should be, or writes it when asked to.
fn check(path: &Path, expected: &str) {
    if std::env::var_os("KURA_GENERATE").is_some() {
        std::fs::write(path, expected).expect("writing a generated file");
    }
    let found = std::fs::read_to_string(path).unwrap_or_default();
    assert!(found == expected, "{} has drifted from the code: run `make generate`", path.display());
}

#[test]
fn completions_are_what_the_binary_prints() {
    for shell in Shell::ALL {
        let path: PathBuf = root().join("completions").join(shell.file_name());
        check(&path, &script(shell));
    }
}

#[test]
fn bash_can_read_its_script() {
    let status = std::process::Command::new("bash").arg("-n").arg(root().join("completions/kura.bash")).status();
    assert!(status.expect("running bash").success());
}

#[test]
fn completions_offer_the_words_a_setting_takes() {
    for shell in Shell::ALL {
        let script = script(shell);
        assert!(script.contains("power") && script.contains("data-dir"), "{shell:?}");
    }
}

/// The text with the part between the two markers replaced.
fn with_section(text: &str, name: &str, table: &str) -> String {
    let (before, rest) = text.split_once(&format!("<!-- {name}:")).expect("the README has the marker");
    let (comment, rest) = rest.split_once("-->\n").expect("the marker ends");
    let (_, after) = rest.split_once(&format!("<!-- /{name} -->")).expect("the README has the end marker");
    format!("{before}<!-- {name}:{comment}-->\n{table}<!-- /{name} -->{after}")
}

#[test]
fn the_readme_lists_every_setting_and_every_exit_code() {
    let path = root().join("README.md");
    let readme = std::fs::read_to_string(&path).expect("reading the README");
    let readme = with_section(&readme, "settings", &config::markdown_table());
    check(&path, &with_section(&readme, "exit-codes", &exit::markdown_table()));
}
