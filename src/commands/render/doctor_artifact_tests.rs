//! The screens, as snapshots.

use super::*;
use crate::core::base::ids::{ArtifactId, Digest, StoreId};
use crate::core::doctor::artifact::{BodyLook, SCHEMA};
use crate::core::store::explain::{NameFacts, StubFacts};

const NOW_MS: u64 = 1_750_000_000_000;

fn manifest() -> ManifestFacts {
    ManifestFacts {
        kind: "blob".to_owned(),
        content_type: "application/octet-stream".to_owned(),
        size: 123_456,
        digest: Digest([0xab; 32]),
        version_ms: NOW_MS,
        received_at_ms: NOW_MS + 7,
        origin: StoreId([3; 16]),
        seq: 17,
        ..ManifestFacts::default()
    }
}

fn peer(url: &str, state: Option<State>, here: Option<&'static str>, error: Option<&str>) -> PeerCopy {
    let manifest = (state == Some(State::Held)).then(manifest);
    let error = error.map(str::to_owned);
    PeerCopy { url: url.to_owned(), state, name: None, manifest, here, error, store_id: None }
}

fn report(verdict: Verdict, message: &str) -> ArtifactReport {
    ArtifactReport {
        schema: SCHEMA,
        version: "0.0.0",
        data_dir: Some("/var/cache/kura".to_owned()),
        vantage: "offline",
        started_at: rfc3339(NOW_MS),
        artifact_id: ArtifactId([0xcd; 32]),
        name: Some(NameFacts { producer: "gradle".into(), namespace: "main".into(), key: "0c1d2e".into() }),
        verdict,
        message: message.to_owned(),
        next: None,
        error: None,
        here: None,
        body: None,
        partial: None,
        peers: Vec::new(),
        vantage_reason: "no server holds this data dir".to_owned(),
    }
}

fn corrupt() -> ArtifactReport {
    let path = Some("/var/cache/kura/bodies/0/000000000000001f".to_owned());
    let body = BodyFacts { place: "file".to_owned(), body_no: 31, extent: 0, path };
    let here = Explanation { manifest: Some(manifest()), body: Some(body), ..Explanation::default() };
    let wrong = "its manifest is here and its body is not good: the body is corrupt";
    ArtifactReport {
        here: Some(here),
        body: Some(BodyLook { status: "bad", detail: None, actual: Some("ef".repeat(32)) }),
        next: Some("nothing by hand: kura serve withdraws it".to_owned()),
        peers: vec![
            peer("http://10.0.0.8:7443", Some(State::Held), Some("here already, or newer"), None),
            peer("http://10.0.0.9:7443", None, None, Some("connect: connection refused")),
        ],
        ..report(Verdict::BodyBad, wrong)
    }
}

#[test]
fn a_bad_body_at_80_and_120_columns_and_in_colour() {
    insta::assert_snapshot!("corrupt_80", full(&corrupt(), 3, Style { color: false, width: 80 }));
    insta::assert_snapshot!("corrupt_100", full(&corrupt(), 3, Style { color: false, width: 100 }));
    let plain = full(&corrupt(), 3, Style { color: false, width: 80 });
    let coloured = full(&corrupt(), 3, Style { color: true, width: 80 });
    assert_eq!(coloured.replace("\u{1b}[1;31m", "").replace("\u{1b}[0m", ""), plain, "colour only repeats the sign");
}

#[test]
fn an_evicted_artifact_says_so_in_few_lines() {
    let stub = StubFacts { reason: "evicted".to_owned(), version_ms: NOW_MS, logical: 0 };
    let here = Explanation { stub: Some(stub), evicted_floor_ms: NOW_MS - 1, ..Explanation::default() };
    let evicted = ArtifactReport { here: Some(here), ..report(Verdict::Evicted, "it was evicted to make room") };
    insta::assert_snapshot!("evicted", full(&evicted, 0, Style { color: false, width: 80 }));
    assert!(short(&evicted).ends_with("it was evicted to make room\n"));
    assert!(short(&corrupt()).ends_with("· 1 of 2 peers have it\n"));
}
