//! The frame: order, dependencies, limits, panics, selection.

use std::time::Duration;

use super::*;
use crate::core::doctor::check::{CheckError, QUICK_LIMIT};
use crate::core::doctor::context::{Asked, Settings};
use crate::core::doctor::report::Conclusion;
use crate::core::doctor::test_support::{config, context, world};

/// A check whose answer is written in its fields.
struct Pretended {
    about: About,
    answer: fn(&Pulse) -> Result<Outcome, CheckError>,
}

impl Check for Pretended {
    fn about(&self) -> About {
        self.about
    }

    fn run(&self, _context: &Context, pulse: &Pulse) -> Result<Outcome, CheckError> {
        (self.answer)(pulse)
    }
}

const ABOUT: About = About {
    code: Code::DataDirMissing,
    category: Category::Volume,
    title: "pretended",
    reach: Reach::Offline,
    severity: Severity::Fail,
    fatal: true,
    needs: &[],
    limit: QUICK_LIMIT,
};

static FAILS: Pretended = Pretended { about: ABOUT, answer: |_| Ok(Outcome::fail("bad")) };
static NEEDS_IT: Pretended = Pretended {
    about: About { code: Code::DiskFull, needs: &[Code::DataDirMissing], ..ABOUT },
    answer: |_| Ok(Outcome::ok("never asked")),
};
static STANDS_ALONE: Pretended =
    Pretended { about: About { code: Code::InodesLow, ..ABOUT }, answer: |_| Ok(Outcome::warn("few")) };
static PANICS: Pretended =
    Pretended { about: About { code: Code::IndexFormat, ..ABOUT }, answer: |_| panic!("on purpose") };
static HANGS: Pretended = Pretended {
    about: About { code: Code::BodyMissing, limit: Duration::from_millis(50), ..ABOUT },
    answer: |_| loop {
        std::thread::park();
    },
};
static BEATS: Pretended = Pretended {
    about: About { code: Code::BodyCorrupt, limit: Duration::from_millis(400), ..ABOUT },
    answer: |pulse| {
        for _ in 0..100 {
            std::thread::sleep(Duration::from_millis(10));
            pulse.beat();
        }
        Ok(Outcome::ok("slow and alive"))
    },
};
static CANNOT: Pretended =
    Pretended { about: About { code: Code::NotReady, ..ABOUT }, answer: |_| Err(CheckError("no answer".to_owned())) };

fn report(checks: &[&'static dyn Check], selection: &Selection) -> Report {
    let root = tempfile::tempdir().unwrap();
    run(&Arc::new(context(root.path())), selection, checks)
}

fn statuses(report: &Report) -> Vec<Status> {
    report.checks.iter().map(|finding| finding.status).collect()
}

#[test]
fn a_failed_check_skips_only_what_needs_it() {
    let report = report(&[&FAILS, &NEEDS_IT, &STANDS_ALONE], &Selection::default());
    assert_eq!(statuses(&report), [Status::Fail, Status::Skip, Status::Warn]);
    assert_eq!(report.checks[1].message, "DATA_DIR_MISSING failed");
    assert_eq!((report.summary.total(), report.summary.conclusion(Severity::Fail)), (3, Conclusion::Findings));
}

#[test]
fn a_panic_a_hang_and_an_error_are_neither_ok_nor_failed_and_stop_nobody() {
    let report = report(&[&PANICS, &HANGS, &CANNOT, &BEATS], &Selection::default());
    assert_eq!(statuses(&report), [Status::Error, Status::Error, Status::Error, Status::Ok]);
    let said: Vec<&str> = report.checks.iter().map(|finding| finding.message.as_str()).collect();
    assert_eq!(said, ["the check itself failed: on purpose", "no answer within 0 s", "no answer", "slow and alive"]);
    assert_eq!(report.summary.conclusion(Severity::Fail), Conclusion::Incomplete);
}

#[test]
fn only_and_skip_take_codes_and_categories() {
    let selected = |only: &[&str], skip: &[&str]| {
        let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let selection = Selection { only: parse(only), skip: parse(skip) };
        report(&[&FAILS, &NEEDS_IT, &STANDS_ALONE], &selection)
    };
    assert_eq!(statuses(&selected(&["inodes-low"], &[])), [Status::Warn]);
    assert_eq!(statuses(&selected(&["volume"], &["INODES_LOW"])), [Status::Fail, Status::Skip, Status::Skip]);
    // What was not asked for does not silence what was.
    assert_eq!(statuses(&selected(&["DISK_FULL"], &[])), [Status::Ok]);
    assert_eq!(statuses(&selected(&[], &["DATA_DIR_MISSING"])), [Status::Skip, Status::Ok, Status::Warn]);
    assert!("DISKS".parse::<Selector>().is_err());
}

#[test]
fn live_and_network_checks_are_skipped_offline_and_live_ones_are_errors_when_insisted_on() {
    static LIVE: Pretended =
        Pretended { about: About { reach: Reach::Live, ..ABOUT }, answer: |_| Ok(Outcome::ok("")) };
    static NETWORK: Pretended =
        Pretended { about: About { reach: Reach::Network, ..ABOUT }, answer: |_| Ok(Outcome::ok("")) };
    let root = tempfile::tempdir().unwrap();
    let asked = |mode| {
        let settings = Settings::Resolved(Arc::new(config(root.path())));
        let context = Context::new(settings, Asked { mode, ..Asked::default() }, world());
        statuses(&run(&Arc::new(context), &Selection::default(), &[&LIVE, &NETWORK]))
    };
    assert_eq!(asked(Mode::Auto), [Status::Skip, Status::Ok]);
    assert_eq!(asked(Mode::Offline), [Status::Skip, Status::Skip]);
    assert_eq!(asked(Mode::Online), [Status::Error, Status::Ok]);
}

#[test]
fn the_json_has_exactly_the_documented_keys() {
    let report = report(&[&FAILS], &Selection::default());
    let json = serde_json::to_value(&report).unwrap();
    let keys = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
    assert_eq!(keys(&json), "schema version data_dir vantage started_at summary checks");
    assert_eq!(keys(&json["summary"]), "ok warn fail skip error");
    assert_eq!(keys(&json["checks"][0]), "code category title status severity message evidence effect remedy docs ms");
    assert_eq!(json["schema"], "kura.doctor/v1");
    assert_eq!(json["started_at"], "2025-06-15T15:06:40Z");
    assert_eq!(json["checks"][0]["docs"], "docs/operations.md#data_dir_missing");
}
