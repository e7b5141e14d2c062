//! Misuse: everything wrong is named at once, in the form that was asked for, and the code is 2.

use crate::kura::Kura;

#[test]
fn a_bare_kura_prints_help_and_exits_2() {
    let ended = Kura::new().run(&[]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""));
    assert!(ended.stderr.contains("Usage: kura [OPTIONS] <COMMAND>"), "{}", ended.stderr);
}

#[test]
fn flags_variables_file_and_contradictions_are_named_in_one_message() {
    let kura = Kura::new().with("KURA_DURABILITY", "never");
    let file = kura.file("kura.toml", "prot = 1\nregion = 5.5\n");
    let ended = kura.run(&[
        "completions",
        "bash",
        "--config",
        &file,
        "--data-dri",
        "/x",
        "--port",
        "7443",
        "--tmp-dir-max-bytes",
        "0",
    ]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""));
    insta::assert_snapshot!(kura.without_home(&ended.stderr));
}

#[test]
fn under_json_misuse_is_one_object_on_stderr() {
    let ended = Kura::new().run(&["completions", "bash", "--nope", "--output", "json"]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""));
    let error = ended.exit_error();
    assert_eq!(error["message_type"], "exit_error");
    assert_eq!(error["code"], 2);
    assert!(error["message"].as_str().unwrap().contains("'--nope'"), "{error}");
    assert!(error["hint"].as_str().unwrap().starts_with("kura"), "{error}");
}

#[test]
fn a_node_that_logs_json_says_its_last_words_in_json() {
    let kura = Kura::new().with("KURA_PORT", "x");
    let by_flag = kura.run(&["serve", "--log-format", "json"]);
    assert_eq!((by_flag.code, &by_flag.exit_error()["code"]), (Some(2), &serde_json::json!(2)));
    let by_variable = kura.with("KURA_LOG_FORMAT", "json").run(&["serve"]);
    assert_eq!(by_variable.exit_error()["message"], "KURA_PORT: expected a port from 0 to 65535, got \"x\"");
}

#[test]
fn an_error_is_a_line_with_a_hint_of_its_own() {
    let ended = Kura::new().run(&["completions", "bash", "--data-dri"]);
    assert_eq!(
        ended.stderr,
        "error: unexpected argument '--data-dri' found; did you mean '--data-dir'?\n\
         hint: kura --help, or kura <command> --help\n"
    );
}

#[test]
fn colour_is_only_where_it_is_wanted() {
    let colored = |kura: Kura, arguments: &[&str]| {
        let all: Vec<&str> = arguments.iter().chain(&["--nothing", "completions", "bash"]).copied().collect();
        kura.run(&all).stderr.contains('\u{1b}')
    };
    assert!(!colored(Kura::new(), &[]));
    assert!(colored(Kura::new(), &["--color", "always"]));
    assert!(!colored(Kura::new(), &["--color=never"]));
    assert!(!colored(Kura::new().with("NO_COLOR", "1"), &[]));
}

#[test]
fn an_argument_that_is_no_utf8_is_an_error_and_no_panic() {
    use std::os::unix::ffi::OsStrExt;
    let kura = Kura::new();
    let ended = kura.command(&["completions"]).arg(std::ffi::OsStr::from_bytes(b"\xff")).output().unwrap();
    assert_eq!(ended.status.code(), Some(2));
}
