//! `docs/failure-matrix.md` has its fifty rows and names only tests that exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources(folder: PathBuf, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("listing a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The names of all functions in the sources and tests.
fn functions() -> BTreeSet<String> {
    let mut files = Vec::new();
    sources(root().join("src"), &mut files);
    sources(root().join("tests"), &mut files);
    let name = |line: &str| line.trim_start().split_once("fn ")?.1.split('(').next().map(str::to_owned);
    let texts = files.iter().map(|path| fs::read_to_string(path).expect("reading a source"));
    texts.flat_map(|text| text.lines().filter_map(name).collect::<Vec<_>>()).collect()
}

fn rows() -> Vec<(String, String, String)> {
    let text = fs::read_to_string(root().join("docs/failure-matrix.md")).expect("reading the matrix");
    let cells = |line: &str| line.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let rows = text.lines().filter(|line| line.starts_with('|')).skip(2).map(cells);
    rows.map(|cells| (cells[1].clone(), cells[3].clone(), cells[4].clone())).collect()
}

#[test]
fn the_matrix_has_all_fifty_rows_in_order() {
    let numbers: Vec<String> = rows().into_iter().map(|(number, ..)| number).filter(|number| number != "–").collect();
    assert_eq!(numbers, (1..=50).map(|number: u32| number.to_string()).collect::<Vec<_>>());
}

#[test]
fn every_test_the_matrix_names_exists_and_what_is_not_open_names_one() {
    let functions = functions();
    for (number, state, proof) in rows() {
        let named: Vec<&str> = proof.split('`').skip(1).step_by(2).filter(|name| name.contains('_')).collect();
        let missing: Vec<_> = named.iter().filter(|name| !functions.contains(**name)).collect();
        assert!(missing.is_empty(), "row {number} names no test: {missing:?}");
        let is_absent_by_design = proof.contains("there is no ");
        assert!(state == "open" || !named.is_empty() || is_absent_by_design, "row {number} is {state} without a test");
    }
}
