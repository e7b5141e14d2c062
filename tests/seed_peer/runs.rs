//! Runs of the binary against one or more seed-era peers.

use std::path::Path;

use super::peer::{Artifact, Fault, SeedPeer, gradle};
use serde_json::{Value, json};

/// Runs `kura bootstrap` and gives back its exit code, report and stderr.
async fn bootstrap(data_dir: &Path, peers: &[&SeedPeer], extra: &[&str]) -> (i32, Value, String) {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_kura"));
    command.env_clear().args(["bootstrap", "--output", "json", "--data-dir"]).arg(data_dir).args(extra);
    for peer in peers {
        command.args(["--peer", &peer.url]);
    }
    let output = command.output().await.unwrap();
    let report = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output.status.code().unwrap_or(-1), report, String::from_utf8_lossy(&output.stderr).into_owned())
}

fn staged(data_dir: &Path) -> usize {
    std::fs::read_dir(data_dir.join("tmp/bootstrap")).unwrap().count()
}

fn outcomes(report: &Value) -> Vec<(String, String)> {
    let item =
        |item: &Value| (item["artifact_id"].as_str().unwrap().to_owned(), item["outcome"].as_str().unwrap().to_owned());
    let mut items: Vec<_> = report["items"].as_array().unwrap().iter().map(item).collect();
    items.sort();
    items
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_faulty_peer_fails_at_is_named_and_everything_else_arrives() {
    let peer = SeedPeer::start().await;
    let data_dir = tempfile::tempdir().unwrap();
    peer.fill(300, 3000);
    let faults =
        [(Fault::Refused, "failed"), (Fault::Cut, "failed"), (Fault::Longer, "bad_copy"), (Fault::Lost, "unavailable")];
    let mut expected = Vec::new();
    for (fault, outcome) in faults {
        let artifact = Artifact { fault: Some(fault), ..gradle(&format!("faulty-{fault:?}"), vec![7; 200_000]) };
        expected.push((peer.add(artifact), outcome.to_owned()));
    }
    expected.sort();

    let (code, report, stderr) = bootstrap(data_dir.path(), &[&peer], &[]).await;
    assert_eq!(code, 5, "{report:#} {stderr}");
    assert_eq!((&report["applied"], &report["items_total"]), (&json!(300), &json!(4)));
    assert_eq!(outcomes(&report), expected);
    assert_eq!((&report["complete"], &report["peers"][0]["bootstrapped"]), (&json!(false), &json!(false)));
    assert_eq!(staged(data_dir.path()), 0, "no error path leaves a staged byte");
    for phase in ["resolve", "handshake", "plan", "reserve", "transfer", "verify", "commit", "report"] {
        assert!(stderr.contains(phase), "{phase} is not named in {stderr}");
    }

    peer.with(|inner| {
        inner.artifacts.values_mut().for_each(|artifact| artifact.fault = None);
        inner.body_requests.clear();
    });
    let (code, report, stderr) = bootstrap(data_dir.path(), &[&peer], &[]).await;
    assert_eq!((code, &report["complete"]), (0, &json!(true)), "{report:#} {stderr}");
    assert_eq!((&report["applied"], peer.body_requests()), (&json!(4), 4), "only what was missing is asked for");
    assert_eq!(staged(data_dir.path()), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_digests_walk_nothing_and_without_a_digest_everything_is_walked() {
    let peer = SeedPeer::start().await;
    let data_dir = tempfile::tempdir().unwrap();
    peer.with(|inner| inner.has_digest = false);
    peer.fill(600, 10);
    let (code, report, _) = bootstrap(data_dir.path(), &[&peer], &[]).await;
    assert_eq!((code, &report["applied"]), (0, &json!(600)));
    assert_eq!(peer.with(|inner| std::mem::take(&mut inner.pages)), 3, "ceil(600 / 256) pages");

    peer.with(|inner| inner.has_digest = true);
    let (code, report, _) = bootstrap(data_dir.path(), &[&peer], &[]).await;
    assert_eq!((code, peer.with(|inner| inner.pages), &report["applied"]), (0, 0, &json!(0)));

    peer.add(gradle("new-1", vec![1; 10]));
    peer.add(gradle("new-2", vec![2; 10]));
    let (code, report, _) = bootstrap(data_dir.path(), &[&peer], &[]).await;
    assert_eq!((code, &report["applied"]), (0, &json!(2)));
    assert!(peer.with(|inner| inner.pages) <= 2, "only the buckets that differ are walked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_that_does_not_advance_ends_the_pass() {
    let peer = SeedPeer::start().await;
    let data_dir = tempfile::tempdir().unwrap();
    peer.fill(3, 10);
    peer.with(|inner| (inner.is_stuck, inner.has_digest) = (true, false));
    let (code, report, _) = bootstrap(data_dir.path(), &[&peer], &[]).await;
    assert_eq!((code, &report["complete"]), (5, &json!(false)));
    let error = report["peers"][0]["error"].as_str().unwrap();
    assert!(error.contains("does not advance"), "{error}");
    assert!(peer.with(|inner| inner.pages) <= 6, "the walk does not go round");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_not_usable_are_skipped_and_counted_and_the_page_goes_on() {
    let peer = SeedPeer::start().await;
    let data_dir = tempfile::tempdir().unwrap();
    peer.fill(2, 10);
    let in_three_days = 3 * 24 * 3_600_000 + kura_now();
    peer.add(Artifact { version_ms: in_three_days, ..gradle("from-the-future", vec![1]) });
    peer.with(|inner| inner.extra_rows = vec![json!({"artifact_id": "x", "producer": "bazel"}), json!(17)]);
    let (code, report, _) = bootstrap(data_dir.path(), &[&peer], &[]).await;
    assert_eq!(code, 0, "{report:#}");
    assert_eq!((&report["applied"], &report["skipped_rows"]), (&json!(2), &json!(3)));
    assert_eq!(peer.body_requests(), 2, "a row ahead of our clock is not fetched");
}

fn kura_now() -> u64 {
    use kura::core::base::clock::Clock;
    kura::core::base::clock::SystemClock::default().now_ms()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_beats_what_it_covers_in_whichever_order_they_arrive() {
    let peer = SeedPeer::start().await;
    let data_dir = tempfile::tempdir().unwrap();
    peer.add(gradle("before", vec![1; 10]));
    let (_, report, _) = bootstrap(data_dir.path(), &[&peer], &[]).await;
    assert_eq!(report["applied"], json!(1));

    peer.with(|inner| inner.tombstones.insert("android".to_owned(), 1_750_000_000_100));
    peer.add(gradle("also-before", vec![2; 10]));
    peer.add(Artifact { version_ms: 1_750_000_000_200, ..gradle("after", vec![3; 10]) });
    let (code, report, _) = bootstrap(data_dir.path(), &[&peer], &[]).await;
    assert_eq!((code, &report["tombstones_applied"], &report["applied"]), (0, &json!(1), &json!(1)));

    let (_, report, _) = bootstrap(data_dir.path(), &[&peer], &[]).await;
    assert_eq!((&report["tombstones_applied"], &report["applied"]), (&json!(0), &json!(0)), "nothing comes back");
    assert_eq!(peer.body_requests(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_staging_budget_far_below_the_data_completes() {
    let peer = SeedPeer::start().await;
    let data_dir = tempfile::tempdir().unwrap();
    peer.fill(20, 1 << 20);
    let (code, report, stderr) = bootstrap(data_dir.path(), &[&peer], &["--tmp-dir-max-bytes", "3MiB"]).await;
    assert_eq!((code, &report["applied"]), (0, &json!(20)), "{stderr}");
    let (code, report, stderr) = bootstrap(data_dir.path(), &[&peer], &["--restart", "--tmp-dir-max-bytes", "1"]).await;
    assert_eq!((code, &report["applied"]), (0, &json!(0)), "{stderr}");
    peer.add(gradle("large", vec![1; 2 << 20]));
    let (code, report, stderr) = bootstrap(data_dir.path(), &[&peer], &["--tmp-dir-max-bytes", "1MiB"]).await;
    assert_eq!((code, &report["applied"]), (0, &json!(1)), "a body larger than the budget goes alone: {stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_peer_with_twice_what_fits_the_newest_are_fetched_and_next_to_nothing_in_vain() {
    const ARTIFACTS: u64 = 400;
    const CHARGE: u64 = (48 << 10) + 512;
    for has_digest in [true, false] {
        let peer = SeedPeer::start().await;
        let data_dir = tempfile::tempdir().unwrap();
        // Ids come in no order of age.
        let add = |n: u64| {
            let body = vec![n as u8; 46 << 10];
            peer.add(Artifact { version_ms: 1_750_000_000_000 + n, ..gradle(&format!("key-{n}"), body) })
        };
        let oldest_first: Vec<String> = (0..ARTIFACTS).map(add).collect();
        peer.with(|inner| inner.has_digest = has_digest);
        let capacity = (ARTIFACTS / 2 * CHARGE).to_string();
        for round in 0..2 {
            let (code, report, stderr) =
                bootstrap(data_dir.path(), &[&peer], &["--cas-capacity-bytes", &capacity]).await;
            assert_eq!((code, &report["complete"]), (0, &json!(true)), "{report:#} {stderr}");
            let mut fetched = peer.with(|inner| inner.body_requests.clone());
            let mut newest = oldest_first[oldest_first.len() - fetched.len()..].to_vec();
            fetched.sort();
            newest.sort();
            assert_eq!(fetched, newest, "run {round}: nothing but the newest, each once");
            let fetched = fetched.len() as u64;
            assert!((ARTIFACTS * 9 / 20..=ARTIFACTS / 2).contains(&fetched), "{fetched} of {ARTIFACTS}: {report:#}");
            assert!(report["beyond_capacity"].as_u64().unwrap() >= ARTIFACTS / 2, "{report:#}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_artifacts_from_four_peers_are_fetched_once() {
    let data_dir = tempfile::tempdir().unwrap();
    let mut peers = Vec::new();
    for _ in 0..4 {
        let peer = SeedPeer::start().await;
        peer.fill(100, 5000);
        peers.push(peer);
    }
    let all: Vec<&SeedPeer> = peers.iter().collect();
    let (code, report, _) = bootstrap(data_dir.path(), &all, &[]).await;
    assert_eq!((code, &report["applied"], &report["already_present"]), (0, &json!(100), &json!(0)));
    assert_eq!(peers.iter().map(SeedPeer::body_requests).sum::<usize>(), 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_holder_lacks_comes_from_another() {
    let data_dir = tempfile::tempdir().unwrap();
    let (whole, faulty) = (SeedPeer::start().await, SeedPeer::start().await);
    whole.fill(50, 100);
    faulty.fill(50, 100);
    faulty.with(|inner| inner.artifacts.values_mut().for_each(|artifact| artifact.fault = Some(Fault::Refused)));
    let (code, report, stderr) = bootstrap(data_dir.path(), &[&faulty, &whole], &[]).await;
    assert_eq!((code, &report["applied"], &report["items_total"]), (0, &json!(50), &json!(0)), "{report:#} {stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_says_what_it_would_fetch_and_changes_nothing() {
    let peer = SeedPeer::start().await;
    let data_dir = tempfile::tempdir().unwrap();
    let missing = data_dir.path().join("missing");
    assert_eq!(bootstrap(&missing, &[&peer], &["--dry-run"]).await.0, 12);
    assert!(!missing.exists());
    peer.fill(5, 100);
    assert_eq!(bootstrap(data_dir.path(), &[&peer], &[]).await.0, 0);
    peer.add(gradle("new", vec![1; 500]));
    let (code, report, stderr) = bootstrap(data_dir.path(), &[&peer], &["--dry-run"]).await;
    assert_eq!((code, &report["planned"], &report["planned_bytes"]), (0, &json!(1), &json!(500)), "{stderr}");
    assert_eq!((peer.body_requests(), &report["applied"]), (5, &json!(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_reason_not_to_begin_has_its_exit_code() {
    let peer = SeedPeer::start().await;
    let data_dir = tempfile::tempdir().unwrap();
    assert_eq!(bootstrap(data_dir.path(), &[], &[]).await.0, 13, "no peer configured");
    assert_eq!(bootstrap(data_dir.path(), &[], &["--peer", "http://127.0.0.1:9"]).await.0, 13, "nobody answers");
    peer.with(|inner| inner.tenant_id = "acme".to_owned());
    let (code, _, stderr) = bootstrap(data_dir.path(), &[&peer], &[]).await;
    assert_eq!(code, 14, "another tenant: {stderr}");
    assert!(stderr.contains("acme"), "{stderr}");
    let foreign = tempfile::tempdir().unwrap();
    std::fs::write(foreign.path().join("thesis.tex"), "x").unwrap();
    assert_eq!(bootstrap(foreign.path(), &[&peer], &[]).await.0, 12);
    let seed_era = tempfile::tempdir().unwrap();
    std::fs::create_dir(seed_era.path().join("rocksdb")).unwrap();
    std::fs::create_dir(seed_era.path().join("segments")).unwrap();
    assert_eq!(bootstrap(seed_era.path(), &[&peer], &[]).await.0, 14);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_absent_peer_failed_to_deliver_is_not_forgotten() {
    let data_dir = tempfile::tempdir().unwrap();
    let (faulty, other) = (SeedPeer::start().await, SeedPeer::start().await);
    let id = faulty.add(Artifact { fault: Some(Fault::Refused), ..gradle("one", vec![1; 50]) });
    assert_eq!(bootstrap(data_dir.path(), &[&faulty], &[]).await.0, 5);
    let (code, report, _) = bootstrap(data_dir.path(), &[&other], &[]).await;
    assert_eq!((code, &report["waiting_for_peer"]), (5, &json!(1)), "{report:#}");
    other.add(gradle("one", vec![1; 50]));
    let (code, report, _) = bootstrap(data_dir.path(), &[&other], &[]).await;
    assert_eq!((code, &report["applied"], outcomes(&report)), (0, &json!(1), Vec::new()), "{id}");
}
