//! `kura reclaim-staging` from outside: what it refuses, what it frees, what it leaves alone.

use crate::kura::{Kura, listing};

/// Not mapped into the namespace the test makes.
const UID_OF_NOBODY_HERE: u32 = 54_321;

/// A data dir as a seed-era node leaves it after a kill: data, and an upload that nobody will finish.
fn with_leftovers(data: &str) -> Kura {
    let kura = Kura::new();
    for folder in ["rocksdb", "segments", "tmp/uploads", "tmp/parts", "tmp/bootstrap"] {
        std::fs::create_dir_all(kura.path(data).join(folder)).unwrap();
    }
    kura.file(&format!("{data}/segments/one.seg"), "committed");
    kura.file(&format!("{data}/tmp/uploads/upload-1"), &"x".repeat(100_000));
    kura.file(&format!("{data}/tmp/bootstrap/bootstrap-1"), &"x".repeat(50_000));
    kura
}

#[test]
fn without_a_yes_it_refuses_with_6_names_the_command_and_removes_nothing() {
    let kura = with_leftovers("data");
    let before = listing(&kura.path("data"));
    let ended = kura.run(&["reclaim-staging", "--data-dir", "data"]);
    assert_eq!(ended.code, Some(6), "{}", ended.stderr);
    let hint = ended.stderr.lines().find(|line| line.starts_with("hint: ")).unwrap_or_default();
    assert!(hint.contains("kura reclaim-staging") && hint.contains("--yes"), "{}", ended.stderr);
    assert_eq!(listing(&kura.path("data")), before);
}

#[test]
fn a_dry_run_exits_0_and_removes_nothing() {
    let kura = with_leftovers("data");
    let before = listing(&kura.path("data"));
    let ended = kura.run(&["reclaim-staging", "--data-dir", "data", "--dry-run", "--output", "json"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let report: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!((&report["schema"], &report["dry_run"]), (&"kura.reclaim/v1".into(), &true.into()));
    assert_eq!(report["removed_files"], 0);
    assert_eq!(listing(&kura.path("data")), before);
}

#[test]
fn with_a_yes_it_frees_staging_and_nothing_else_and_a_second_run_finds_nothing() {
    let kura = with_leftovers("data");
    let segments = listing(&kura.path("data/segments"));
    let first = kura.run(&["reclaim-staging", "--data-dir", "data", "--yes", "--output", "json"]);
    assert_eq!(first.code, Some(0), "{}", first.stderr);
    let report: serde_json::Value = serde_json::from_str(&first.stdout).unwrap();
    assert_eq!(report["removed_files"], 2, "{report}");
    assert_eq!(listing(&kura.path("data/segments")), segments);
    for area in ["uploads", "parts", "bootstrap"] {
        assert_eq!(listing(&kura.path("data/tmp").join(area)), [], "{area}");
    }
    let second = kura.run(&["reclaim-staging", "--data-dir", "data", "--output", "json"]);
    assert_eq!(second.code, Some(0), "{}", second.stderr);
    let report: serde_json::Value = serde_json::from_str(&second.stdout).unwrap();
    assert_eq!(report["removed_files"], 0);
}

#[test]
fn what_is_no_data_dir_exits_12() {
    let kura = Kura::new();
    std::fs::create_dir(kura.path("photos")).unwrap();
    kura.file("photos/cat.jpg", "miaow");
    for data in ["photos", "absent"] {
        let ended = kura.run(&["reclaim-staging", "--data-dir", data, "--yes"]);
        assert_eq!(ended.code, Some(12), "{data}: {}", ended.stderr);
    }
    assert!(!kura.path("absent").exists() && kura.path("photos/cat.jpg").exists());
}

#[test]
fn a_holder_that_locks_nothing_it_stages_exits_11() {
    let kura = with_leftovers("data");
    let lock = std::fs::File::create(kura.path("data/.kura.writer.lock")).unwrap();
    lock.lock().unwrap();
    std::io::Write::write_all(&mut &lock, b"pid=4242\n").unwrap();
    let before = listing(&kura.path("data"));
    let ended = kura.run(&["reclaim-staging", "--data-dir", "data", "--yes", "--output", "json"]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(11), ""), "{}", ended.stderr);
    assert_eq!(ended.exit_error()["code"], 11);
    assert_eq!(listing(&kura.path("data")), before);
}

#[test]
fn one_file_that_cannot_go_does_not_keep_the_others_and_exits_5() {
    let kura = with_leftovers("volume/data");
    // A folder of a stranger: nobody without that uid, or without power over it, unlinks in there.
    let uploads = kura.path("volume/data/tmp/uploads");
    let _only_root_may = std::os::unix::fs::chown(&uploads, Some(UID_OF_NOBODY_HERE), None);
    std::fs::set_permissions(&uploads, std::os::unix::fs::PermissionsExt::from_mode(0o555)).unwrap();
    let script = "\"$2\" reclaim-staging --yes --data-dir \"$1/data\" --output json";
    let ended = kura.in_namespace(script);
    std::fs::set_permissions(&uploads, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    assert_eq!(ended.code, Some(5), "{} {}", ended.stdout, ended.stderr);
    let report: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(report["failed"].as_array().unwrap().len(), 1, "{report}");
    assert!(report["failed"][0]["path"].as_str().unwrap().ends_with("upload-1"), "{report}");
    assert!(!kura.path("volume/data/tmp/bootstrap/bootstrap-1").exists());
}

#[test]
fn a_full_volume_is_freed() {
    let script = "mkdir -p \"$1/data/rocksdb\" \"$1/data/segments\" \"$1/data/tmp/uploads\" && \
                  mv \"$1/fill\" \"$1/data/tmp/uploads/upload-1\" || exit 98; \
                  \"$2\" reclaim-staging --yes --data-dir \"$1/data\" --output json";
    let ended = Kura::new().on_a_full_volume(script);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let report: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(report["removed_files"], 1, "{report}");
    assert!(report["free_bytes_after"].as_u64() > report["free_bytes_before"].as_u64(), "{report}");
}

#[test]
fn wrong_words_and_unknown_flags_are_named_together() {
    let ended = Kura::new().run(&["reclaim-staging", "--older", "7d", "--until-free", "lots"]);
    assert_eq!(ended.code, Some(2));
    assert!(ended.stderr.contains("'--older'") && ended.stderr.contains("'lots'"), "{}", ended.stderr);
}

#[test]
fn as_a_guard_before_a_first_start_it_finds_nothing_to_do() {
    let kura = Kura::new();
    std::fs::create_dir(kura.path("empty")).unwrap();
    for data in ["absent/data", "empty"] {
        // More than any volume has free: it would act if there were anything.
        let guard = ["reclaim-staging", "--if-below", "100%", "--yes", "--output", "json", "--data-dir", data];
        let ended = kura.run(&guard);
        assert_eq!(ended.code, Some(0), "{data}: {}", ended.stderr);
        let report: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
        assert_eq!(report["removed_files"], 0);
        assert_eq!(kura.run(&["reclaim-staging", "--yes", "--data-dir", data]).code, Some(12), "{data}");
    }
    assert!(!kura.path("absent").exists() && listing(&kura.path("empty")).is_empty(), "nothing is made");
}
