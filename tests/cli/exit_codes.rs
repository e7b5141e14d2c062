//! Every exit code that can be reached, reached by the real binary.

use kura::commands::exit::ExitCode;

use crate::kura::Kura;

#[test]
fn codes_are_the_documented_numbers() {
    let codes: Vec<u8> = ExitCode::ALL.iter().map(|(code, _)| code.code()).collect();
    assert_eq!(codes, [0, 1, 2, 3, 4, 5, 6, 10, 11, 12, 13, 14, 15]);
}

#[test]
fn a_closed_pipe_is_a_normal_end() {
    use std::process::Stdio;
    let kura = Kura::new();
    let mut child = kura.command(&["completions", "bash"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn an_answer_that_cannot_be_written_exits_1() {
    let kura = Kura::new();
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let ended = kura.command(&["completions", "bash"]).stdout(full).output().unwrap();
    let stderr = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(1), "{stderr}");
    assert!(stderr.starts_with("error: cannot write to stdout\n  caused by: No space left on device"), "{stderr}");
}
