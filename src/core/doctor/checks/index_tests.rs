//! Identities and indexes as they are found after accidents.

use super::*;
use crate::core::doctor::finding::Status;
use crate::core::doctor::test_support::{context, listing, look, store};

#[test]
fn a_data_dir_without_anything_is_no_finding() {
    let root = tempfile::tempdir().unwrap();
    assert_eq!(look(&IndexFormat, &context(root.path())).status, Status::Skip);
}

#[test]
fn a_healthy_store_is_quiet_and_is_left_as_it_was() {
    let root = tempfile::tempdir().unwrap();
    store(root.path()).close().unwrap();
    let before = listing(root.path());
    assert_eq!(look(&IndexFormat, &context(root.path())).status, Status::Ok);
    assert_eq!(look(&IndexUnreadable, &context(root.path())).status, Status::Ok);
    assert_eq!(listing(root.path()), before);
}

#[test]
fn other_formats_foreign_folders_and_damaged_identities_fail() {
    let root = tempfile::tempdir().unwrap();
    store(root.path()).close().unwrap();
    let path = root.path().join("identity");
    let identity = std::fs::read_to_string(&path).unwrap();
    let looked = |text: &str| {
        std::fs::write(&path, text).unwrap();
        look(&IndexFormat, &context(root.path()))
    };
    let mut newer: serde_json::Value = serde_json::from_str(&identity).unwrap();
    newer["format"]["min_reader"] = 99.into();
    assert_eq!(looked(&newer.to_string()).message, "made by another version");
    let mut foreign: serde_json::Value = serde_json::from_str(&identity).unwrap();
    foreign["tenant"] = "acme".into();
    let outcome = looked(&foreign.to_string());
    assert_eq!((outcome.status, outcome.message.as_str()), (Status::Fail, "the data dir belongs to another tenant"));
    assert_eq!(looked("{").message, "the identity cannot be used");
    assert_eq!(looked(&identity).status, Status::Ok);

    let other = tempfile::tempdir().unwrap();
    std::fs::write(other.path().join("thesis.tex"), b"x").unwrap();
    assert_eq!(look(&IndexFormat, &context(other.path())).status, Status::Fail);
}

#[test]
fn an_index_that_lost_a_file_fails_with_its_status_and_is_left_as_it_was() {
    let root = tempfile::tempdir().unwrap();
    store(root.path()).close().unwrap();
    for lost in ["CURRENT", "MANIFEST"] {
        let files = std::fs::read_dir(root.path().join("index")).unwrap().map(|entry| entry.unwrap().path());
        let file = files.into_iter().find(|path| path.to_string_lossy().contains(lost)).unwrap();
        let aside = root.path().join(lost);
        std::fs::rename(&file, &aside).unwrap();
        let before = listing(root.path());
        let outcome = look(&IndexUnreadable, &context(root.path()));
        assert_eq!((outcome.status, outcome.message.as_str()), (Status::Fail, "the index does not open"), "{lost}");
        assert!(!outcome.evidence.values()["status"].as_str().unwrap().is_empty());
        assert_eq!(listing(root.path()), before, "{lost}");
        std::fs::rename(&aside, &file).unwrap();
    }
    assert_eq!(look(&IndexUnreadable, &context(root.path())).status, Status::Ok);
}
