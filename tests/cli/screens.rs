//! The help screens, as snapshots.

use crate::kura::Kura;

fn assert_screen(name: &str, arguments: &[&str]) {
    let ended = Kura::new().run(arguments);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{arguments:?}");
    insta::assert_snapshot!(name, ended.stdout);
}

#[test]
fn help_is_a_screen_that_does_not_change_by_accident() {
    assert_screen("help_short", &["-h"]);
    assert_screen("help_long", &["--help"]);
}

#[test]
fn each_command_has_its_help() {
    for command in ["serve", "bootstrap", "reclaim-staging", "doctor", "completions"] {
        assert_screen(&format!("help_{}", command.replace('-', "_")), &[command, "-h"]);
    }
}

#[test]
fn the_version_is_the_packages() {
    let ended = Kura::new().run(&["--version"]);
    assert_eq!((ended.code, ended.stdout), (Some(0), format!("kura {}\n", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn help_and_errors_have_no_colour_where_nobody_looks() {
    for arguments in [&["--help"][..], &["--color", "auto", "nothing"]] {
        let ended = Kura::new().run(arguments);
        assert!(!ended.stdout.contains('\u{1b}') && !ended.stderr.contains('\u{1b}'), "{ended:?}");
    }
}
