//! `kura doctor` from outside: its four exit codes, its form, and that it changes nothing.

use crate::kura::{Ended, Kura, listing};

/// A home with a data dir that a node has made and left.
fn with_data_dir() -> Kura {
    // Another process on this machine may have the default ports.
    let kura = Kura::new().with("KURA_PORT", "0").with("KURA_INTERNAL_PORT", "0");
    let mut node = kura.start(&["serve", "--data-dir", "data", "--port", "0", "--internal-port", "0"]);
    node.wait_for("store_opened");
    assert_eq!(node.signal("TERM").code(), Some(0));
    kura
}

fn doctor(kura: &Kura, arguments: &[&str]) -> Ended {
    kura.run(&["doctor", "--data-dir", "data"].iter().chain(arguments).copied().collect::<Vec<_>>())
}

fn json(ended: &Ended) -> serde_json::Value {
    let report: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(report["schema"], "kura.doctor/v1");
    report
}

#[test]
fn a_sound_data_dir_exits_0_and_stays_as_it_was() {
    let kura = with_data_dir();
    let before = listing(&kura.path("data"));
    for arguments in [&["--verify", "all"][..], &["--offline"], &["--output", "json"], &["--output", "short"]] {
        let ended = doctor(&kura, arguments);
        assert_eq!(ended.code, Some(0), "{} {}", ended.stdout, ended.stderr);
    }
    assert_eq!(listing(&kura.path("data")), before);
    assert_eq!(json(&doctor(&kura, &["--output", "json"]))["summary"]["fail"], 0);
}

#[test]
fn a_failure_exits_3_in_every_form() {
    for output in ["table", "short", "json"] {
        let kura = Kura::new();
        let ended = doctor(&kura, &["--output", output]);
        assert_eq!(ended.code, Some(3), "{} {}", ended.stdout, ended.stderr);
        assert!(ended.stdout.contains("DATA_DIR_MISSING"), "{}", ended.stdout);
        assert!(!kura.path("data").exists());
    }
}

#[test]
fn unusable_settings_are_a_finding_and_exit_3() {
    let kura = Kura::new().with("KURA_PORT", "x");
    let ended = doctor(&kura, &["--output", "json"]);
    assert_eq!(ended.code, Some(3), "{} {}", ended.stdout, ended.stderr);
    let report = json(&ended);
    let found = report["checks"].as_array().unwrap().iter().find(|check| check["code"] == "CONFIG_INVALID").unwrap();
    assert_eq!(found["status"], "fail");
    assert!(found.to_string().contains("KURA_PORT: expected a port"), "{found}");
}

#[test]
fn what_could_not_be_checked_exits_4() {
    let kura = with_data_dir();
    let ended = doctor(&kura, &["--online"]);
    assert_eq!(ended.code, Some(4), "{} {}", ended.stdout, ended.stderr);
}

#[test]
fn misuse_exits_2() {
    let kura = Kura::new();
    let unknown = doctor(&kura, &["--only", "DSK_FULL", "--output", "json"]);
    assert_eq!((unknown.code, &unknown.exit_error()["code"]), (Some(2), &2.into()), "{}", unknown.stderr);
    assert_eq!(doctor(&kura, &["--offline", "--online"]).code, Some(2));
}

#[test]
fn a_warning_fails_only_if_asked_to() {
    let kura = with_data_dir();
    std::fs::create_dir_all(kura.path("data/tmp/uploads")).unwrap();
    kura.file("data/tmp/uploads/upload-1", "left behind");
    assert_eq!(doctor(&kura, &["--only", "STAGING_ORPHANS"]).code, Some(0));
    assert_eq!(doctor(&kura, &["--only", "STAGING_ORPHANS", "--fail-on", "warn"]).code, Some(3));
}

#[test]
fn beside_a_running_node_it_looks_from_inside() {
    let kura = Kura::new();
    let mut node = kura.start(&["serve", "--data-dir", "data", "--port", "0", "--internal-port", "0"]);
    node.wait_for("traffic_state");
    let ended = doctor(&kura, &["--online", "--output", "json"]);
    assert_eq!(ended.code, Some(0), "{} {}", ended.stdout, ended.stderr);
    assert!(json(&ended)["vantage"].to_string().contains("live"), "{}", ended.stdout);
}
