//! The exposition of a real node.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::support::node::Node;
use crate::support::traffic::Artifact;
use crate::support::wait::eventually;

/// `/metrics` of a node.
pub fn scrape(node: &Node) -> String {
    node.client().get("/metrics").and_then(crate::support::http::Reply::text).expect("/metrics")
}

/// The families of an exposition with their types.
pub fn families(text: &str) -> BTreeMap<String, String> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    types.map(|(name, kind)| (name.to_owned(), kind.to_owned())).collect()
}

/// The value of one sample, by its name with labels as they are written.
pub fn sample(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

/// Runs promtool, which comes with Debian's package `prometheus`.
pub fn promtool(arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new("promtool");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("promtool (package prometheus) is needed: {error}"));
    child.stdin.take().expect("its input").write_all(input.as_bytes()).expect("writing to promtool");
    child.wait_with_output().expect("waiting for promtool")
}

/// A node that has stored, served and missed.
pub fn used_node(folder: &std::path::Path) -> Node {
    let mut node = Node::new("n", folder);
    node.start_ready();
    for seed in 1..=9 {
        let artifact = Artifact::new(seed, 1000);
        artifact.store(&node).unwrap();
        artifact.check(&node).unwrap();
    }
    assert_eq!(node.client().get("/gradle/team/absent").unwrap().status, 404);
    node
}

#[test]
fn promtool_finds_nothing_to_say_about_the_exposition() {
    let root = tempfile::tempdir().unwrap();
    let node = used_node(root.path());
    let text = scrape(&node);
    let output = promtool(&["check", "metrics"], &text);
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
    let broken = promtool(&["check", "metrics"], &text.replace("kura_http_requests_total", "kura_http_requests"));
    assert!(!broken.status.success(), "promtool looks at what it is given");
}

#[test]
fn counters_and_findings_show_zero_before_anything_has_happened() {
    let root = tempfile::tempdir().unwrap();
    let mut node = Node::new("n", root.path());
    node.start_ready();
    let text = scrape(&node);
    for name in [
        "kura_artifact_reads_total{producer=\"gradle\",result=\"not_found\"}",
        "kura_artifact_egress_completions_total{producer=\"xcode\",result=\"aborted\"}",
        "kura_multipart_parts_total{result=\"error\"}",
        "kura_requests_refused_total{limit=\"disk_space\"}",
        "kura_replication_requests_total{operation=\"delete_namespace\",result=\"error\"}",
        "kura_replication_apply_results_total{item_type=\"artifact\",outcome=\"error\",source=\"bootstrap\"}",
        "kura_bootstrap_runs_total{result=\"error\"}",
        "kura_store_evictions_total{reason=\"pressure\"}",
        "kura_artifact_egress_duration_seconds_count{producer=\"nx\"}",
        "kura_doctor_check{code=\"DISK_FULL\",severity=\"fail\"}",
        "kura_store_withdraw_breaker_open",
        "kura_store_write_stopped",
    ] {
        assert_eq!(sample(&text, name), Some(0.0), "{name}");
    }
    assert_eq!(sample(&text, "kura_ready_state"), Some(1.0));
    let info =
        format!("kura_node_info{{region=\"n\",tenant_id=\"default\",version=\"{}\"}}", env!("CARGO_PKG_VERSION"));
    assert_eq!(sample(&text, &info), Some(1.0));
    assert!(sample(&text, "kura_startup_step_duration_seconds{step=\"open_store\"}").unwrap() > 0.0);
}

#[test]
fn every_step_of_a_start_has_its_duration() {
    let root = tempfile::tempdir().unwrap();
    let mut node = Node::new("n", root.path());
    node.start_ready();
    let steps = node.client().get("/ready").unwrap().json().unwrap()["startup"].clone();
    let named: BTreeSet<&str> = steps.as_array().unwrap().iter().filter_map(|step| step["name"].as_str()).collect();
    let known: BTreeSet<&str> = kura::core::server::live_metrics::STEPS.into_iter().collect();
    assert!(!named.is_empty() && named.is_subset(&known), "{named:?}");
}

#[test]
fn the_nodes_own_doctor_shows_what_it_finds_and_the_store_that_it_answers() {
    let root = tempfile::tempdir().unwrap();
    let mut node = Node::new("n", root.path());
    let line = format!("sh -c 'ulimit -n 2000 && exec {} serve'", env!("CARGO_BIN_EXE_kura"));
    node.start_by(&line, "/usr/bin:/bin");
    node.wait_ready(Duration::from_secs(60));
    let text = eventually("a look of the node's own doctor", Duration::from_secs(40), || {
        let text = scrape(&node);
        let looked = sample(&text, "kura_doctor_last_run_timestamp_seconds").unwrap() > 0.0;
        let beaten = sample(&text, "kura_store_heartbeat_age_seconds").unwrap() > 0.0;
        if looked && beaten { Ok(text) } else { Err("none yet") }
    });
    assert_eq!(sample(&text, "kura_doctor_check{code=\"FD_LIMIT_LOW\",severity=\"warn\"}"), Some(1.0));
    assert_eq!(sample(&text, "kura_doctor_check{code=\"FD_LIMIT_LOW\",severity=\"fail\"}"), Some(0.0));
    assert_eq!(sample(&text, "kura_doctor_check{code=\"DISK_FULL\",severity=\"fail\"}"), Some(0.0));
    assert!(sample(&text, "kura_store_heartbeat_age_seconds").unwrap() < 10.0);
    assert!(sample(&text, "kura_rocksdb_write_buffer_capacity_bytes").unwrap() > 0.0);
    let told = node.log().lines().filter(|line| line.contains("doctor_finding_began")).count();
    assert_eq!(told, 1, "{}", node.log());
}

#[test]
fn random_paths_and_keys_add_no_series() {
    let root = tempfile::tempdir().unwrap();
    let node = used_node(root.path());
    let client = node.client();
    let ask = |number: u64| {
        for path in
            [format!("/nowhere/{number:x}"), format!("/gradle/team/{number:032x}"), format!("/v1/cache/{number}")]
        {
            client.get(&path).expect("an answer");
        }
    };
    ask(1);
    let series = || scrape(&node).lines().filter(|line| !line.starts_with('#')).count();
    // The first scrape is a request of its own kind, too.
    series();
    let before = series();
    (2..300).for_each(ask);
    assert_eq!(series(), before);
}
