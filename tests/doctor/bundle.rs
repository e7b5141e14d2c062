//! A report that travels: what is in it, what is not, and that it reads back. And waiting until nothing is found.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::doctor::kura;
use crate::support::node::Node;

/// What must not be anywhere in an archive.
const SECRETS: [&str; 4] = ["hunter2-in-a-url", "hunter2-in-a-token", "hunter2-in-the-past", "hunter2-flag"];

#[test]
fn a_bundle_beside_a_node_has_everything_but_secrets_and_reads_back() {
    let root = tempfile::tempdir().unwrap();
    let mut node = Node::new("n", root.path());
    node.start_ready();
    let file = root.path().join("bundle.tar");
    let made = node
        .command(&["doctor", "--bundle", file.to_str().unwrap(), "--output", "json"])
        .env("GITHUB_TOKEN", SECRETS[1])
        .env("KURA_EXTENSION_SIGNING", SECRETS[2])
        .env("HTTP_PROXY", format!("http://me:{}@proxy:3128", SECRETS[0]))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success() && said.contains("wrote "), "{said}");
    let unpacked = std::process::Command::new("tar").args(["-xf", "bundle.tar"]).current_dir(root.path()).status();
    assert!(unpacked.unwrap().success());
    let json =
        |name: &str| -> Value { serde_json::from_slice(&std::fs::read(root.path().join(name)).unwrap()).unwrap() };
    assert_eq!(json("status.json")["pid"], node.pid());
    assert_eq!(json("doctor.json")["vantage"], "live");
    let settings = json("config.json");
    let port = settings["settings"].as_array().unwrap().iter().find(|setting| setting["key"] == "port").unwrap();
    assert_eq!(port["source"], "KURA_PORT");
    assert!(std::fs::read_to_string(root.path().join("metrics.txt")).unwrap().contains("# HELP "));
    assert_eq!(json("bundle.json")["absent"].as_array().unwrap().len(), 0);
    let log = std::fs::read_to_string(root.path().join("logs/node.log")).unwrap();
    assert!(log.lines().all(|line| node.log().contains(line)), "{log}");
    assert!(log.contains("startup_step") && log.contains("store_opened"), "{log}");
    let read = |output: &str| {
        let all = ["doctor", "--from-bundle", file.to_str().unwrap(), "--output", output];
        let output = kura(&root.path().join("elsewhere"), &all).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, again) = read("json");
    assert_eq!((code, again.as_bytes()), (Some(0), made.stdout.as_slice()));
    let screen = read("table").1;
    assert!(screen.contains("kura doctor · "), "{screen}");
    let (_, end) = screen.split_once("log of the node, the last ").expect("the end of the log");
    assert!(end.lines().nth(1).is_some_and(|line| line.starts_with("  ")) && end.contains("startup_step"), "{screen}");
    assert!(!read("short").1.contains("log of the node"));
    assert_no_secrets(&std::fs::read(&file).unwrap());
}

#[test]
fn secrets_are_in_no_bundle_even_if_a_finding_would_quote_them() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("bundle.tar");
    let peer = format!("http://me:{}@a:7443", SECRETS[3]);
    let arguments = ["doctor", "--peer", &peer, "--bundle", file.to_str().unwrap()];
    let mut command = kura(&root.path().join("data"), &arguments);
    command.env("KURA_NODE_URL", format!("http://me:{}@b:7443", SECRETS[0])).env("KURA_OLD_SECRET", SECRETS[2]);
    let output = command.env("KURA_ANALYTICS_TOKEN", SECRETS[1]).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
    let bytes = std::fs::read(&file).unwrap();
    assert!(String::from_utf8_lossy(&bytes).contains("http://…@"), "the finding itself is there");
    assert_no_secrets(&bytes);
}

fn assert_no_secrets(archive: &[u8]) {
    let text = String::from_utf8_lossy(archive);
    for secret in SECRETS {
        assert!(!text.contains(secret), "{secret} is in the archive");
    }
}

#[test]
fn a_bundle_is_never_written_over_a_file_or_into_the_data_dir_and_no_other_file_is_read_as_one() {
    let root = tempfile::tempdir().unwrap();
    let data_dir = root.path().join("data");
    std::fs::create_dir(&data_dir).unwrap();
    let there = root.path().join("there.tar");
    std::fs::write(&there, b"mine").unwrap();
    let code = |flag: &str, path: &std::path::Path| {
        kura(&data_dir, &["doctor", flag, path.to_str().unwrap()]).output().unwrap().status.code()
    };
    assert_eq!(code("--bundle", &there), Some(2));
    assert_eq!(code("--bundle", &data_dir.join("bundle.tar")), Some(2));
    assert_eq!(code("--bundle", &root.path().join("no/such/folder")), Some(2));
    assert_eq!(code("--from-bundle", &there), Some(2));
    assert_eq!(std::fs::read(&there).unwrap(), b"mine");
    assert!(std::fs::read_dir(&data_dir).unwrap().next().is_none());
}

#[test]
fn waiting_ends_when_nothing_is_found_any_more_and_when_the_time_is_over() {
    let root = tempfile::tempdir().unwrap();
    let data_dir = root.path().join("data");
    let waited = |limit: &str| {
        let started = Instant::now();
        let arguments = ["doctor", "--only", "DATA_DIR_MISSING", "--wait", limit];
        let output = kura(&data_dir, &arguments).output().unwrap();
        (output.status.code(), started.elapsed(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, took, said) = waited("1500ms");
    assert_eq!((code, took >= Duration::from_millis(1500)), (Some(3), true));
    assert_eq!(said.matches("waiting for DATA_DIR_MISSING").count(), 1, "{said}");
    let made = data_dir.clone();
    let maker = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(1200));
        std::fs::create_dir(&made).unwrap();
    });
    let (code, took, _) = waited("60s");
    maker.join().unwrap();
    assert_eq!((code, took < Duration::from_secs(30)), (Some(0), true), "{took:?}");
}
