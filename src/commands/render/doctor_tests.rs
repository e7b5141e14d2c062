//! The screen, as snapshots.

use super::*;
use crate::core::doctor::finding::{Code, Evidence};

fn finding(code: Code, category: Category, status: Status, severity: Severity, message: &str) -> Finding {
    Finding {
        code,
        category,
        title: "title",
        status,
        severity,
        message: message.to_owned(),
        evidence: Evidence::new(),
        effect: None,
        remedy: None,
        docs: String::new(),
        ms: 1,
    }
}

/// A bad night: a full volume, leftovers, a check that could not run, and things that are fine.
fn report() -> Report {
    let full = Finding {
        evidence: Evidence::new()
            .value("free_bytes", 0_u64)
            .fact("0 B of 50 GiB free")
            .fact("ballast 512 MiB present")
            .fact("inodes 3 %"),
        effect: Some("kura serve cannot start: the index must write a manifest and a log".to_owned()),
        remedy: Some(Remedy::text("frees about 11.2 GiB").change("kura reclaim-staging --yes")),
        ..finding(Code::DiskFull, Category::Volume, Status::Fail, Severity::Fail, "no space left for data")
    };
    let keys: Vec<String> = (0..7).map(|n| format!("gradle \"\" \"key{n}\": the body is missing")).collect();
    let missing = Finding {
        evidence: Evidence::new().fact("7 of 900 bodies").list("missing", &keys, 7),
        effect: Some("each is a miss".to_owned()),
        remedy: Some(Remedy::text("nothing by hand").look("ls bodies").look("dmesg")),
        ..finding(Code::BodyMissing, Category::Bodies, Status::Fail, Severity::Fail, "7 artifacts have no whole body")
    };
    let orphans = Finding {
        evidence: Evidence::new().fact("oldest 9 d, newest 3 h").fact("0 belong to a live upload"),
        ..finding(Code::StagingOrphans, Category::Staging, Status::Warn, Severity::Warn, "412 abandoned files")
    };
    let locked = Finding {
        evidence: Evidence::new().fact("pid 7 on node-1"),
        effect: Some("commands that write exit 11".to_owned()),
        ..finding(Code::DataDirLocked, Category::DataDir, Status::Ok, Severity::Info, "a process holds the data dir")
    };
    let checks = vec![
        finding(Code::DataDirMissing, Category::Volume, Status::Ok, Severity::Fail, "the data dir exists"),
        full,
        locked,
        orphans,
        missing,
        finding(Code::PeerUnreachable, Category::Peers, Status::Error, Severity::Fail, "no answer within 40 s"),
        finding(Code::NotReady, Category::Node, Status::Skip, Severity::Fail, "asks a running node: there is none"),
    ];
    Report {
        schema: crate::core::doctor::report::SCHEMA,
        version: "0.4.0",
        data_dir: Some("/var/cache/kura".to_owned()),
        vantage: "offline",
        started_at: "2026-11-23T05:00:00Z".to_owned(),
        summary: Summary::of(&checks),
        checks,
        mesh: None,
        vantage_reason: "no server holds this data dir".to_owned(),
    }
}

const PLAIN: Style = Style { color: false, width: 80 };

#[test]
fn a_screen_of_80_columns() {
    let screen = full(&report(), 3, PLAIN);
    assert!(screen.lines().all(|line| line.chars().count() <= 80), "{screen}");
    insta::assert_snapshot!("screen_80", screen);
}

#[test]
fn a_screen_of_100_columns() {
    insta::assert_snapshot!("screen_100", full(&report(), 3, Style { color: false, width: 100 }));
}

#[test]
fn the_short_screen_has_only_what_is_not_ok() {
    insta::assert_snapshot!("screen_short", short(&report(), 3, PLAIN));
}

#[test]
fn the_json_is_one_document() {
    insta::assert_snapshot!("json", json(&report()).unwrap());
}

#[test]
fn colour_only_repeats_what_the_sign_says() {
    let colored = full(&report(), 3, Style { color: true, width: 80 });
    assert!(colored.contains("\u{1b}[1;31mFAIL\u{1b}[0m  DISK_FULL"));
    let mut plain = String::new();
    let mut rest = colored.as_str();
    while let Some((before, after)) = rest.split_once('\u{1b}') {
        plain.push_str(before);
        rest = after.split_once('m').map_or("", |(_, after)| after);
    }
    plain.push_str(rest);
    assert_eq!(plain, full(&report(), 3, PLAIN));
}

#[test]
fn a_narrow_terminal_loses_no_word() {
    let narrow = full(&report(), 3, Style { color: false, width: 30 });
    for word in ["DISK_FULL", "reclaim-staging", "manifest", "exit 3"] {
        assert!(narrow.contains(word), "{word}");
    }
}

#[test]
fn commands_are_never_wrapped() {
    let command = format!("kura reclaim-staging --data-dir /{} --yes", "deep/".repeat(30));
    let mut report = report();
    report.checks[1].remedy = Some(Remedy::text("frees").change(command.clone()));
    assert!(full(&report, 3, PLAIN).lines().any(|line| line.ends_with(&command)));
}

#[test]
fn checks_left_out_for_one_reason_are_one_entry() {
    let skip = |code, reason: &str| finding(code, Category::Node, Status::Skip, Severity::Fail, reason);
    let checks = vec![
        skip(Code::IndexWriteStopped, "asks a running node"),
        skip(Code::NoProgress, "asks a running node"),
        skip(Code::NotReady, "as asked by --skip"),
    ];
    let text = full(&Report { checks, ..report() }, 0, Style { color: false, width: 80 });
    assert!(text.contains("  skip  INDEX_WRITE_STOPPED, NO_PROGRESS  asks a running node\n"), "{text}");
    assert!(text.contains("  skip  NOT_READY  as asked by --skip\n"), "{text}");
}
