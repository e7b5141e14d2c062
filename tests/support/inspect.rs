//! Looks at a node from outside: its metrics, its memory, its staging areas, and what it holds.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use super::holdings::holdings;
use super::node::Node;

/// The areas of the tmp dir.
const AREAS: [&str; 3] = ["uploads", "parts", "bootstrap"];

/// The sum of all samples of a family whose labels contain each given `name="value"`; 0 if there is none.
pub fn metric(node: &Node, family: &str, labels: &[(&str, &str)]) -> f64 {
    let text = node.client().get("/metrics").and_then(|reply| reply.text()).expect("reading /metrics");
    text.lines().filter_map(|line| sample(line, family, labels)).sum()
}

fn sample(line: &str, family: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let rest = line.strip_prefix(family)?;
    let (given, value) = match rest.strip_prefix('{') {
        Some(labelled) => labelled.rsplit_once("} ")?,
        None => ("", rest.strip_prefix(' ')?),
    };
    let all_there =
        labels.iter().all(|(name, value)| given.split(',').any(|label| label == format!("{name}=\"{value}\"")));
    if all_there { value.trim().parse().ok() } else { None }
}

/// Reads answered with a body, by producer.
pub fn hits(node: &Node, producer: &str) -> f64 {
    metric(node, "kura_artifact_reads_total", &[("producer", producer), ("result", "ok")])
}

/// Everything that lies in the staging areas by name.
pub fn staged_names(node: &Node) -> Vec<PathBuf> {
    let mut names = Vec::new();
    for area in AREAS {
        let folder = node.tmp_dir().join(area);
        if let Ok(entries) = fs::read_dir(&folder) {
            names.extend(entries.flatten().map(|entry| entry.path()));
        }
    }
    names
}

/// Files without a name that the node holds open: how most of what is staged lies on the disk.
pub fn nameless_files(node: &Node) -> usize {
    let folder = format!("/proc/{}/fd", node.pid());
    let tmp_dir = node.tmp_dir();
    let open = fs::read_dir(folder).expect("listing open files").flatten();
    open.filter_map(|entry| fs::read_link(entry.path()).ok())
        .filter(|target| target.starts_with(&tmp_dir) && target.to_string_lossy().ends_with("(deleted)"))
        .count()
}

/// Peak resident memory since [`reset_peak_memory`], in bytes.
pub fn peak_memory_bytes(node: &Node) -> u64 {
    status_kib(node, "VmHWM:") * 1024
}

/// Resident memory now, in bytes.
pub fn memory_bytes(node: &Node) -> u64 {
    status_kib(node, "VmRSS:") * 1024
}

/// Lets the kernel count the peak from here on.
pub fn reset_peak_memory(node: &Node) {
    fs::write(format!("/proc/{}/clear_refs", node.pid()), "5").expect("resetting the peak");
}

fn status_kib(node: &Node, field: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/status", node.pid())).expect("reading the process status");
    let line = text.lines().find_map(|line| line.strip_prefix(field)).expect("the field");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Every file of a data dir with its size and the time of its last change, as text for comparing.
pub fn listing(node: &Node) -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    let mut folders = vec![node.data_dir()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("listing the data dir").flatten() {
            let meta = entry.metadata().expect("an entry");
            let modified = meta.modified().expect("a time");
            lines.insert(format!("{} {} {modified:?}", entry.path().display(), meta.len()));
            if meta.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    lines
}

/// What a node holds: `id version digest` of every artifact of every producer.
pub fn artifacts(node: &Node) -> Result<BTreeSet<String>, String> {
    let get = |path: &str| {
        let reply = node.internal().get(path)?;
        let status = reply.status;
        let body = reply.bytes()?;
        anyhow::ensure!(status == 200, "{path}: {status} {}", String::from_utf8_lossy(&body));
        Ok(body)
    };
    holdings(get).map_err(|error| format!("the log of {}: {error:#}", node.name))
}
