//! `docs/failure-matrix.md` has its fifty rows, a row for each step and each damage, and names only tests that exist.

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

/// The rows of the table below a heading, cell by cell; the first table is below the title.
fn rows_below(heading: &str) -> Vec<Vec<String>> {
    let text = fs::read_to_string(root().join("docs/failure-matrix.md")).expect("reading the matrix");
    let cells = |line: &str| line.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let lines = text.lines().skip_while(|line| *line != heading);
    let table = lines.skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    table.skip(2).map(cells).collect()
}

fn rows() -> Vec<(String, String, String)> {
    rows_below("# Failure matrix")
        .into_iter()
        .map(|cells| (cells[1].clone(), cells[3].clone(), cells[4].clone()))
        .collect()
}

fn named_tests(proof: &str) -> Vec<&str> {
    proof.split('`').skip(1).step_by(2).filter(|name| name.contains('_')).collect()
}

/// The tests of one file of this folder.
fn tests_in(file: &str) -> Vec<String> {
    let text = fs::read_to_string(root().join("tests/faults").join(file)).expect("reading a test");
    let tests = text.split("#[test]\n").skip(1);
    let name = |text: &str| text.split_once("fn ")?.1.split_once('(').map(|(name, _)| name.to_owned());
    tests.filter_map(name).collect()
}

#[test]
fn each_row_of_steps_and_damages_names_tests_and_each_such_test_has_its_row() {
    let (functions, mut all) = (functions(), BTreeSet::new());
    for heading in ["## Each step and fault", "## Each damaged file"] {
        let rows = rows_below(heading);
        assert!(rows.len() >= 9, "{heading} has {} rows", rows.len());
        for cells in rows {
            let named = named_tests(&cells[cells.len() - 2]);
            assert!(!named.is_empty(), "{cells:?} names no test");
            let missing: Vec<_> = named.iter().filter(|name| !functions.contains(**name)).collect();
            assert!(missing.is_empty(), "{cells:?} names no test: {missing:?}");
            all.extend(named.into_iter().map(str::to_owned));
        }
    }
    let tests = ["steps.rs", "damage.rs"].into_iter().flat_map(tests_in);
    let without_a_row: Vec<_> = tests.filter(|test| !all.contains(test)).collect();
    assert!(without_a_row.is_empty(), "{without_a_row:?}");
}

#[test]
fn the_matrix_has_all_fifty_rows_in_order() {
    let numbers: Vec<String> = rows().into_iter().map(|(number, ..)| number).filter(|number| number != "–").collect();
    assert_eq!(numbers, (1..=50).map(|number: u32| number.to_string()).collect::<Vec<_>>());
}

#[test]
fn every_row_is_settled_and_names_tests_that_exist() {
    let functions = functions();
    for (number, state, proof) in rows() {
        let named = named_tests(&proof);
        let missing: Vec<_> = named.iter().filter(|name| !functions.contains(**name)).collect();
        assert!(missing.is_empty(), "row {number} names no test: {missing:?}");
        let is_settled = state.split(", ").all(|word| ["never", "heals", "named"].contains(&word));
        assert!(is_settled && !named.is_empty(), "row {number} is {state:?} by {named:?}");
    }
}
