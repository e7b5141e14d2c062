//! What a bulk answer brought, handed to the committer together.

use bytes::Bytes;

use super::*;
use crate::core::base::limits::CLOCK_SKEW_MAX_MS;
use crate::core::bootstrap::bulk::{BulkEnd, Staged, settle_together};
use crate::core::bootstrap::fetch::{FetchError, stage_bytes};
use crate::core::bootstrap::settle::ItemEnd;
use crate::core::mesh::wire::unhashed_record;
use crate::core::store::record::ArtifactKey;

/// A verified body; longer than a byte it is a file.
async fn staged(bench: &Bench, place: usize, (key, body, version_ms): (&str, &'static [u8], u64)) -> Staged {
    let name = ArtifactKey { producer: "nx".to_owned(), namespace: "nx".to_owned(), key: key.to_owned() };
    let record = unhashed_record(name, String::new(), body.len() as u64, version_ms, version_ms);
    (place, Ok(stage_bytes(&bench.engine, record, Bytes::from_static(body), PEER).await.unwrap()))
}

#[tokio::test(start_paused = true)]
async fn each_item_of_a_bulk_answer_has_its_own_end_however_many_are_committed_together() {
    let bench = Bench::new(1 << 20);
    let before = staged(&bench, 0, ("known", b"2", NOW_MS)).await;
    settle_together(&bench.engine, vec![Ok(before)]).await.unwrap();
    let answered = vec![
        Ok(staged(&bench, 6, ("small", b"s", NOW_MS)).await),
        Ok(staged(&bench, 5, ("known", b"1", NOW_MS - 1)).await),
        Ok(staged(&bench, 4, ("ahead", b"a", NOW_MS + CLOCK_SKEW_MAX_MS + 1)).await),
        Ok((3, Err(BulkEnd::Alone))),
        Ok(staged(&bench, 2, ("file", b"in a file", NOW_MS)).await),
        Ok(staged(&bench, 1, ("other", b"o", NOW_MS)).await),
        Err(FetchError::Failed("cut".to_owned())),
    ];
    let (mut ends, mut cuts) = (BTreeMap::new(), 0);
    for end in settle_together(&bench.engine, answered).await.unwrap() {
        match end {
            Ok((place, BulkEnd::Ended(ItemEnd { outcome, bytes, skewed, .. }))) => {
                ends.insert(place, (outcome, bytes, skewed));
            }
            Ok((place, end)) => assert!(place == 3 && matches!(end, BulkEnd::Alone), "{place}: {end:?}"),
            Err(error) => cuts += usize::from(error.to_string() == "cut"),
        }
    }
    let expected = [
        (1, (Outcome::Applied, 1, false)),
        (2, (Outcome::Applied, 9, false)),
        (4, (Outcome::AlreadyPresent, 0, true)),
        (5, (Outcome::AlreadyPresent, 0, false)),
        (6, (Outcome::Applied, 1, false)),
    ];
    assert_eq!((ends, cuts), (expected.into(), 1));
    let newest = bench.store().lookup(&id("known")).unwrap().unwrap();
    assert_eq!(newest.version_ms, NOW_MS);
    assert_eq!((bench.staged(), bench.engine.staging.reserved_bytes()), (0, 0));
}
