//! Settings from outside: what wins, what warns, what stops.

use crate::kura::Kura;

#[test]
fn unknown_variables_only_warn() {
    let kura = Kura::new().with("KURA_DATA_DRI", "/x").with("KURA_OTEL_SERVICE_NAME", "kura");
    let ended = kura.with("KURA_PORT", "tcp://10.0.0.7:4000").run(&["completions", "fish"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stderr.contains("KURA_DATA_DRI is not a setting; did you mean KURA_DATA_DIR?"), "{}", ended.stderr);
    assert!(ended.stderr.contains("KURA_OTEL_SERVICE_NAME"), "{}", ended.stderr);
    assert!(ended.stderr.contains("KURA_PORT"), "{}", ended.stderr);
}

#[test]
fn the_environment_names_a_file_and_a_flag_names_another() {
    let kura = Kura::new();
    let (bad, good) = (kura.file("bad.toml", "port = -1"), kura.file("good.toml", "region = \"\""));
    let kura = kura.with("KURA_CONFIG", &bad);
    let by_variable = kura.run(&["serve"]);
    assert!(by_variable.code == Some(2) && by_variable.stderr.contains("bad.toml:1 (port)"), "{}", by_variable.stderr);
    let by_flag = kura.run(&["serve", "--config", &good]);
    assert!(by_flag.code == Some(2) && by_flag.stderr.contains("good.toml:1 (region)"), "{}", by_flag.stderr);
}

#[test]
fn contradictions_name_their_sources() {
    let kura = Kura::new().with("KURA_BIND", "0.0.0.0");
    let ended = kura.run(&["serve", "--peer", "http://10.0.0.8:7443", "--port", "7443"]);
    assert_eq!(ended.code, Some(2));
    for named in ["KURA_BIND=0.0.0.0", "--peer http://10.0.0.8:7443", "--port 7443", "internal_port 7443"] {
        assert!(ended.stderr.contains(named), "{named}: {}", ended.stderr);
    }
}

#[test]
fn without_a_home_there_is_no_default_data_dir() {
    let kura = Kura::new();
    let ended = kura.command(&["serve"]).env_remove("HOME").output().unwrap();
    let stderr = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(2), "{stderr}");
    assert!(stderr.starts_with("error: --data-dir: no default: neither XDG_STATE_HOME nor HOME is set"), "{stderr}");
}
