//! The command line around the checks: exit codes, lists, runbooks, and that they agree.

use kura::core::doctor::checks;
use kura::core::doctor::finding::Code;

use crate::doctor::{Diagnosis, kura};

/// What only a running node can tell of itself.
const LIVE_NODE_CHECKS: [&str; 5] =
    ["INDEX_WRITE_STOPPED", "NO_PROGRESS", "BREAKER_OPEN", "NOT_READY", "READY_BUT_EMPTY"];

fn run(arguments: &[&str]) -> (i32, String, String) {
    let root = tempfile::tempdir().unwrap();
    let output = kura(&root.path().join("data"), arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn the_enum_the_list_the_runbooks_and_the_checks_agree() {
    let (code, listed, _) = run(&["doctor", "--list", "--output", "json"]);
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let listed: Vec<&str> = listed["checks"].as_array().unwrap().iter().map(|c| c["code"].as_str().unwrap()).collect();
    let known: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
    assert_eq!((code, &listed), (0, &known));
    let checked: Vec<&str> = checks::ALL.iter().map(|check| check.about().code.as_str()).collect();
    assert_eq!(checked, known);
    let (_, table, _) = run(&["doctor", "--list"]);
    for name in known {
        assert!(table.contains(name), "{name}");
        let (code, runbook, _) = run(&["doctor", "--explain", name]);
        assert_eq!((code, runbook.starts_with(&format!("### {name}\n"))), (0, true), "{name}: {runbook}");
    }
}

#[test]
fn unknown_codes_are_usage_errors_that_suggest_the_nearest() {
    for arguments in [&["doctor", "--explain", "disk-ful"][..], &["doctor", "--only", "DISK_FUL"]] {
        let (code, stdout, stderr) = run(arguments);
        assert_eq!((code, stdout.as_str()), (2, ""), "{arguments:?}");
        assert!(stderr.contains("did you mean DISK_FULL"), "{stderr}");
    }
    assert_eq!(run(&["doctor", "--offline", "--online"]).0, 2);
    assert_eq!(run(&["doctor", "--skip", "nonsense"]).0, 2);
}

#[test]
fn settings_that_do_not_resolve_are_a_finding_and_not_a_usage_error() {
    let (code, stdout, _) = run(&["doctor", "--port", "http", "--output", "json"]);
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(
        (code, &report["checks"][0]["code"], &report["checks"][0]["status"]),
        (3, &"CONFIG_INVALID".into(), &"fail".into())
    );
    assert!(report["checks"][0]["evidence"]["problems"][0].as_str().unwrap().contains("port"));
}

#[test]
fn the_exit_code_does_not_depend_on_the_output_and_nothing_is_made() {
    for output in ["table", "short", "json"] {
        let root = tempfile::tempdir().unwrap();
        let data_dir = root.path().join("data");
        let ended = kura(&data_dir, &["doctor", "--output", output]).output().unwrap();
        assert_eq!(ended.status.code(), Some(3), "{output}: the data dir is missing");
        assert!(!data_dir.exists() && std::fs::read_dir(root.path()).unwrap().next().is_none());
    }
}

#[test]
fn an_empty_data_dir_is_quiet_unless_a_running_node_is_insisted_on() {
    let root = tempfile::tempdir().unwrap();
    let looked = |arguments: &[&str]| {
        let all: Vec<&str> =
            ["doctor", "--output", "json", "--skip", "volume"].iter().chain(arguments).copied().collect();
        Diagnosis::read(&kura(root.path(), &all).output().unwrap())
    };
    assert_eq!(looked(&[]).code, 0);
    let online = looked(&["--online"]);
    assert_eq!(
        (online.code, online.with_status("error")),
        (4, [&["UPLOAD_SLOTS", "REPLICATION_STUCK"], &LIVE_NODE_CHECKS[..]].concat())
    );
}

#[test]
fn warnings_fail_only_when_asked() {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(root.path().join("tmp/parts")).unwrap();
    std::fs::write(root.path().join("tmp/parts/left"), b"x").unwrap();
    let code = |arguments: &[&str]| kura(root.path(), arguments).output().unwrap().status.code();
    assert_eq!(code(&["doctor", "--only", "staging"]), Some(0));
    assert_eq!(code(&["doctor", "--only", "staging", "--fail-on", "warn"]), Some(3));
}

#[test]
fn a_variable_that_is_no_setting_and_a_low_limit_of_open_files_are_named() {
    let root = tempfile::tempdir().unwrap();
    let mut command = kura(root.path(), &["doctor", "--only", "CONFIG_UNKNOWN_KEY", "--output", "json"]);
    let mistyped = Diagnosis::read(&command.env("KURA_PEER", "http://a:7443").output().unwrap());
    assert_eq!((mistyped.code, mistyped.status("CONFIG_UNKNOWN_KEY")), (0, "warn"), "{}", mistyped.report);
    assert!(mistyped.check("CONFIG_UNKNOWN_KEY").to_string().contains("did you mean KURA_PEERS"));

    let limited = |files: u32| {
        let script = format!("ulimit -n {files} && exec \"$0\" doctor --only FD_LIMIT_LOW --output json");
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", &script, env!("CARGO_BIN_EXE_kura")]).env_clear().env("KURA_DATA_DIR", root.path());
        Diagnosis::read(&shell.output().unwrap())
    };
    assert_eq!((limited(200).code, limited(200).status("FD_LIMIT_LOW")), (3, "fail"));
    assert_eq!((limited(2000).code, limited(2000).status("FD_LIMIT_LOW")), (0, "warn"));
}
