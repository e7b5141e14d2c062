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
