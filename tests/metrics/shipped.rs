//! Whatever is shipped beside the binary names only metrics that exist.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::exposition::{families, promtool, scrape, used_node};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(file(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The rows of the table of metrics with their types.
fn documented() -> BTreeMap<String, String> {
    let text = read("docs/operations.md");
    let rows = text.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `kura_")?.split('|').map(str::trim);
        let name = format!("kura_{}", cells.next()?.trim_end_matches('`'));
        Some((name, cells.next()?.to_owned()))
    });
    rows.collect()
}

/// Names of metrics in a text, histograms by their family.
fn named(text: &str, known: &BTreeMap<String, String>) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let family = |word: &str| {
        let cut = ["_bucket", "_sum", "_count"].iter().find_map(|end| word.strip_suffix(end));
        let cut = cut.filter(|cut| known.get(*cut).is_some_and(|kind| kind == "histogram"));
        cut.unwrap_or(word).to_owned()
    };
    words.filter(|word| word.starts_with("kura_")).map(family).collect()
}

#[test]
fn the_table_in_the_docs_and_the_exposition_name_the_same_metrics() {
    let root = tempfile::tempdir().unwrap();
    let node = used_node(root.path());
    let (shown, told) = (families(&scrape(&node)), documented());
    let missing: Vec<String> = shown
        .iter()
        .filter(|(name, _)| !told.contains_key(*name))
        .map(|(name, kind)| format!("{name} {kind}"))
        .collect();
    assert!(missing.is_empty(), "docs/operations.md lacks: {missing:#?}");
    assert_eq!(told, shown);
}

#[test]
fn rules_and_dashboard_name_only_metrics_that_exist() {
    let root = tempfile::tempdir().unwrap();
    let node = used_node(root.path());
    let known = families(&scrape(&node));
    let dashboard: serde_json::Value = serde_json::from_str(&read("deploy/grafana-dashboard.json")).unwrap();
    let mut expressions = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            expressions.push(target["expr"].as_str().expect("an expression").to_owned());
        }
    }
    assert!(expressions.len() > 15, "{}", expressions.len());
    // Rules are what promtool parses, so the dashboard's expressions are handed to it as some.
    let as_rule = |(index, expression): (usize, &String)| {
        let expression = expression.replace("$instance", ".*");
        format!("  - record: panel_{index}\n    expr: {}\n", serde_json::to_string(&expression).unwrap())
    };
    let rules: String = expressions.iter().enumerate().map(as_rule).collect();
    std::fs::write(root.path().join("panels.yml"), format!("groups:\n- name: panels\n  rules:\n{rules}")).unwrap();
    let checked = promtool(&["check", "rules", root.path().join("panels.yml").to_str().unwrap()], "");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    for (from, text) in [("the dashboard", expressions.join("\n")), ("the rules", read("deploy/prometheus-rules.yml"))]
    {
        let unknown: Vec<String> = named(&text, &known).into_iter().filter(|name| !known.contains_key(name)).collect();
        assert!(unknown.is_empty(), "{from}: {unknown:?}");
    }
}

#[test]
fn the_alert_rules_pass_promtool_and_fire_when_they_should() {
    for arguments in [["check", "rules", "deploy/prometheus-rules.yml"], ["test", "rules", "tests/metrics/rules.yml"]] {
        let path = file(arguments[2]);
        let output = promtool(&[arguments[0], arguments[1], path.to_str().unwrap()], "");
        let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{arguments:?}: {said}");
    }
}

#[test]
fn every_alert_has_its_row_in_the_docs_and_names_only_codes_that_exist() {
    let alerts: BTreeSet<String> = read("deploy/prometheus-rules.yml")
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: ").map(ToOwned::to_owned))
        .collect();
    let docs = read("docs/operations.md");
    let rows: BTreeSet<String> = docs
        .lines()
        .filter_map(|line| line.strip_prefix("| `Kura")?.split('`').next())
        .map(|name| format!("Kura{name}"))
        .collect();
    assert!(alerts.len() > 8);
    assert_eq!(alerts, rows);
    for row in docs.lines().filter(|line| line.starts_with("| `Kura")) {
        let words = row.split(|c: char| !(c.is_ascii_uppercase() || c == '_')).filter(|word| word.contains('_'));
        for word in words.filter(|word| word.len() > 3) {
            assert!(word.parse::<kura::core::doctor::finding::Code>().is_ok(), "{word} in {row}");
        }
    }
}

#[test]
fn the_commands_of_the_kubernetes_recipes_are_commands() {
    let root = tempfile::tempdir().unwrap();
    let recipes = read("deploy/kubernetes.yml");
    let lines = recipes.lines().filter_map(|line| line.trim().strip_prefix("args: "));
    let mut ran = 0;
    for arguments in lines.map(|line| serde_json::from_str::<Vec<String>>(line).expect("a list of words")) {
        // A server does not end; its settings are checked all the same.
        let is_server = arguments == ["serve"];
        let arguments: Vec<String> = if is_server {
            ["doctor", "--only", "CONFIG_INVALID,CONFIG_UNKNOWN_KEY", "--fail-on", "warn"].map(str::to_owned).to_vec()
        } else {
            arguments
        };
        let mut kura = std::process::Command::new(env!("CARGO_BIN_EXE_kura"));
        kura.args(&arguments).env_clear().env("KURA_DATA_DIR", root.path().join("data"));
        kura.env("KURA_BIND", "0.0.0.0").env("KURA_LOG_FORMAT", "json");
        kura.env("KURA_DISCOVERY_DNS_NAME", "kura-peers").env("KURA_NODE_URL", "http://kura-0.kura-peers:7443");
        let output = kura.output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_ne!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
        if is_server || arguments.contains(&"--if-below".to_owned()) {
            let stdout = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "a first start does not happen: {stdout}{stderr}");
        }
        ran += 1;
    }
    assert_eq!(ran, 4);
}
