//! A running node in each state.

use super::*;
use crate::core::base::disk::RealDisk;
use crate::core::base::ids::InstanceId;
use crate::core::data_dir::layout::Layout;
use crate::core::doctor::finding::Status;
use crate::core::doctor::live::{ReadinessStatus, StagingStatus, StepStatus, StoreStatus};
use crate::core::doctor::test_support::{context, look};

fn looked(status: ControlStatus) -> Outcome {
    let root = tempfile::tempdir().unwrap();
    let mut context = context(root.path());
    context.vantage = Vantage::Live(Box::new(status));
    look(&NotReady, &context)
}

fn joining() -> ControlStatus {
    let peer = PeerStatus {
        url: "http://a:7443".to_owned(),
        phase: "transfer".to_owned(),
        done: 10,
        total: Some(40),
        rate: 5,
        last_advance_ms: Some(1_000),
        ..PeerStatus::default()
    };
    let readiness = ReadinessStatus {
        state: "joining".to_owned(),
        readiness: "joining".to_owned(),
        reasons: vec!["catching_up".to_owned()],
        peers: vec![peer],
        ..ReadinessStatus::default()
    };
    ControlStatus { now_ms: 31_000, readiness, store: Some(StoreStatus::default()), ..ControlStatus::default() }
}

#[test]
fn a_ready_node_is_quiet() {
    let readiness = ReadinessStatus { ready: true, readiness: "complete".to_owned(), ..ReadinessStatus::default() };
    assert_eq!(looked(ControlStatus { readiness, ..ControlStatus::default() }).status, Status::Ok);
}

#[test]
fn a_node_that_catches_up_tells_slow_from_stuck() {
    let outcome = looked(joining());
    assert_eq!((outcome.status, outcome.message.as_str()), (Status::Fail, "the node is not ready (joining)"));
    assert_eq!(outcome.evidence.line(), "closed: catching_up");
    assert_eq!(outcome.evidence.details(), ["http://a:7443 transfer: 10 of 40 rows, 5/s, last moved 30 s ago"]);
}

#[test]
fn a_failed_step_of_start_up_is_the_gate_to_follow() {
    let step = StepStatus {
        name: "open_store".to_owned(),
        state: "failed".to_owned(),
        error: Some("no space".to_owned()),
        ..StepStatus::default()
    };
    let outcome = looked(ControlStatus { startup: vec![step], store: None, ..joining() });
    assert!(outcome.evidence.line().contains("start-up step open_store failed: no space"), "{outcome:?}");
    assert!(outcome.remedy.unwrap().text.contains("open_store"));
}

#[test]
fn draining_is_a_warning() {
    let readiness = ReadinessStatus { state: "draining".to_owned(), ..ReadinessStatus::default() };
    assert_eq!(looked(ControlStatus { readiness, ..ControlStatus::default() }).status, Status::Warn);
}

#[test]
fn a_store_that_stopped_writing_is_told_with_its_reason() {
    let looked = |store: Option<StoreStatus>| {
        let root = tempfile::tempdir().unwrap();
        let mut context = context(root.path());
        context.vantage = Vantage::Live(Box::new(ControlStatus { store, ..ControlStatus::default() }));
        look(&IndexWriteStopped, &context)
    };
    assert_eq!(looked(None).status, Status::Skip);
    assert_eq!(looked(Some(StoreStatus::default())).status, Status::Ok);
    let reason = "failed to sync the log: Input/output error".to_owned();
    let outcome = looked(Some(StoreStatus { write_stopped: Some(reason.clone()), ..StoreStatus::default() }));
    assert_eq!((outcome.status, outcome.evidence.line()), (Status::Fail, reason));
}

#[test]
fn what_stopped_the_last_process_is_told_once_nobody_runs() {
    let root = tempfile::tempdir().unwrap();
    let layout = Layout::with_default_tmp(root.path());
    let look = |context: &crate::core::doctor::context::Context| look(&IndexWriteStopped, context);
    assert_eq!(look(&context(root.path())).status, Status::Skip, "no process left a record");
    let record = RunRecord::starting(InstanceId([1; 16]), 1_000);
    record.clone().stopped(2_000).store(&layout, &RealDisk).unwrap();
    assert_eq!(look(&context(root.path())).status, Status::Skip, "it ended without trouble");
    let reason = "the index at /d failed: IO error: While fdatasync: Input/output error".to_owned();
    let stopped = record.with_trouble(Some(reason.clone()), 1_749_999_940_000).stopped(3_000);
    stopped.store(&layout, &RealDisk).unwrap();
    let outcome = look(&context(root.path()));
    assert_eq!((outcome.status, &outcome.evidence.values()["reason"]), (Status::Fail, &reason.into()));
    let remedy = outcome.remedy.unwrap();
    assert!(remedy.commands[0].starts_with("kura serve --data-dir "), "{remedy:?}");
}

#[test]
fn upload_slots_warn_before_the_last_is_taken() {
    let looked = |uploads_open: u64, uploads_max: u64| {
        let root = tempfile::tempdir().unwrap();
        let mut context = context(root.path());
        let staging = StagingStatus { uploads_open, uploads_max, uploads_idle_max_s: 600, ..StagingStatus::default() };
        context.vantage = Vantage::Live(Box::new(ControlStatus { staging, ..ControlStatus::default() }));
        look(&UploadSlots, &context)
    };
    assert_eq!(looked(89, 100).status, Status::Ok);
    let outcome = looked(90, 100);
    assert_eq!((outcome.status, outcome.message.as_str()), (Status::Warn, "90 of 100 uploads in parts are open"));
    assert_eq!(outcome.evidence.line(), "the longest without progress for 10 min");
    assert_eq!(looked(0, 0).status, Status::Skip, "an older node does not tell");
}
