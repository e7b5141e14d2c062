//! What multipart uploads promise: parts join in order, limits hold, and nothing is left behind by any end.

use std::path::Path;

use super::*;
use crate::core::base::clock::ManualClock;
use crate::core::base::disk::{Disk, FaultDisk, RealDisk};
use crate::core::base::executor::InlineExecutor;
use crate::core::base::ids::Digest;
use crate::core::data_dir::layout::{Layout, ensure_directories};
use crate::core::staging::area::StagingOptions;
use crate::core::staging::body_writer::{BodySpec, StagedContent};

const OPTIONS: MultipartOptions = MultipartOptions {
    uploads_max: 3,
    part_bytes_max: 1 << 20,
    total_bytes_max: 3 << 20,
    idle_max: Duration::from_secs(60),
    yields_after: Duration::from_secs(10),
};

struct Bench {
    _root: tempfile::TempDir,
    disk: Arc<FaultDisk>,
    clock: Arc<ManualClock>,
    staging: Staging,
    uploads: MultipartUploads<&'static str>,
}

impl Bench {
    fn new(budget_bytes: u64) -> Self {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::with_default_tmp(root.path());
        ensure_directories(&layout, &RealDisk).unwrap();
        let disk = Arc::new(FaultDisk::new(Arc::new(RealDisk)));
        let options = StagingOptions { budget_bytes, inline_max_bytes: 1000, client_wait: Duration::from_millis(10) };
        let staging = Staging::new(&layout, Arc::clone(&disk) as Arc<dyn Disk>, Arc::new(InlineExecutor), options);
        let clock = Arc::new(ManualClock::at(1_700_000_000_000));
        let uploads = MultipartUploads::new(staging.clone(), OPTIONS, Arc::clone(&clock) as Arc<dyn Clock>);
        Self { _root: root, disk, clock, staging, uploads }
    }

    fn parts(&self) -> std::path::PathBuf {
        self.staging.folder(AreaKind::Parts)
    }

    fn assert_nothing_left(&self) {
        assert_eq!((self.staging.reserved_bytes(), entries(&self.parts()), self.uploads.count()), (0, 0, 0));
    }

    async fn put(&self, upload_id: &str, number: u32, bytes: &[u8]) -> Result<u64, MultipartError> {
        put(&self.uploads, upload_id, number, bytes).await
    }
}

async fn put(
    uploads: &MultipartUploads<&'static str>,
    upload_id: &str,
    number: u32,
    bytes: &[u8],
) -> Result<u64, MultipartError> {
    let announced = number.is_multiple_of(2).then_some(u64::try_from(bytes.len()).unwrap());
    let mut writer = uploads.part_writer(upload_id, number, announced).await?;
    for piece in bytes.chunks(100_000) {
        writer.write(Bytes::copy_from_slice(piece)).await?;
    }
    writer.finish().await
}

fn entries(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

fn bytes(length: usize, seed: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from((at * 31 + seed) % 251).unwrap()).collect()
}

fn content(body: &StagedBody) -> Vec<u8> {
    use std::os::unix::fs::FileExt;
    match &body.content {
        StagedContent::Inline(bytes) => bytes.to_vec(),
        StagedContent::File(file) => {
            let mut bytes = vec![0; usize::try_from(body.length).unwrap()];
            file.file().read_exact_at(&mut bytes, 0).unwrap();
            bytes
        }
    }
}

#[tokio::test]
async fn parts_join_in_order_whatever_order_they_came_in_and_an_equal_number_replaces() {
    let bench = Bench::new(8 << 20);
    let id = bench.uploads.start("module").await.unwrap();
    let (one, two, seven) = (bytes(1 << 20, 1), bytes(300_000, 2), bytes(10, 7));
    bench.put(&id, 7, &seven).await.unwrap();
    bench.put(&id, 2, &bytes(500_000, 9)).await.unwrap();
    bench.put(&id, 2, &two).await.unwrap();
    bench.put(&id, 1, &one).await.unwrap();
    assert_eq!(bench.staging.reserved_bytes(), u64::try_from(one.len() + two.len() + seven.len()).unwrap());
    assert_eq!(bench.uploads.meta(&id), Some("module"));

    let (meta, body) = bench.uploads.complete(&id, &[1, 2, 7], true).await.unwrap();
    let whole = [one, two, seven].concat();
    assert_eq!((meta, content(&body) == whole, body.digest), ("module", true, Digest::of(&whole)));
    assert!(body.sha256.is_some());
    assert_eq!(bench.staging.reserved_bytes(), body.length);
    assert!(matches!(bench.uploads.complete(&id, &[1, 2, 7], true).await, Err(MultipartError::UnknownUpload { .. })));
    drop(body);
    bench.assert_nothing_left();
}

#[tokio::test]
async fn joining_needs_no_more_than_the_longest_part_twice() {
    let bench = Bench::new(4 << 20);
    let id = bench.uploads.start("m").await.unwrap();
    for number in 1..=6 {
        bench.put(&id, number, &bytes(100_000 * usize::try_from(number).unwrap(), 1)).await.unwrap();
    }
    let total = bench.staging.reserved_bytes();
    let (_, body) = bench.uploads.complete(&id, &[1, 2, 3, 4, 5, 6], false).await.unwrap();
    assert_eq!((body.length, bench.staging.ledger().peak()), (total, total + 600_000));
    assert_eq!(entries(&bench.parts()), 0, "the parts are gone while the body is held");
}

#[tokio::test]
async fn a_short_upload_stays_in_memory_once_joined() {
    let bench = Bench::new(8 << 20);
    let id = bench.uploads.start("m").await.unwrap();
    bench.put(&id, 1, b"hello ").await.unwrap();
    bench.put(&id, 2, b"world").await.unwrap();
    let (_, body) = bench.uploads.complete(&id, &[1, 2], false).await.unwrap();
    assert!(matches!(&body.content, StagedContent::Inline(bytes) if bytes.as_ref() == b"hello world"));
    bench.assert_nothing_left();
}

#[tokio::test]
async fn a_wrong_list_keeps_the_upload() {
    let bench = Bench::new(8 << 20);
    let id = bench.uploads.start("m").await.unwrap();
    bench.put(&id, 1, b"one").await.unwrap();
    bench.put(&id, 2, b"two").await.unwrap();
    for wrong in [&[1][..], &[2, 1], &[1, 2, 3], &[], &[1, 1, 2]] {
        let refused = bench.uploads.complete(&id, wrong, false).await;
        assert!(matches!(refused, Err(MultipartError::PartsMismatch { uploaded: 2 })), "{wrong:?}");
    }
    let under_way = bench.uploads.part_writer(&id, 3, None).await.unwrap();
    assert!(matches!(bench.uploads.complete(&id, &[1, 2], false).await, Err(MultipartError::Busy)));
    drop(under_way);
    assert_eq!(bench.uploads.complete(&id, &[1, 2], false).await.unwrap().1.length, 6);
    bench.assert_nothing_left();
}

#[tokio::test]
async fn limits_of_parts_totals_and_uploads_hold() {
    let bench = Bench::new(64 << 20);
    let id = bench.uploads.start("m").await.unwrap();
    let long = bytes((1 << 20) + 1, 0);
    for number in [1, 2] {
        assert!(matches!(bench.put(&id, number, &long).await, Err(MultipartError::PartTooLong { limit: 0x10_0000 })));
    }
    for number in 1..=3 {
        bench.put(&id, number, &bytes(1 << 20, 0)).await.unwrap();
    }
    for number in [4, 5] {
        assert!(matches!(bench.put(&id, number, b"x").await, Err(MultipartError::TotalTooLong { .. })));
    }
    bench.put(&id, 3, &bytes(1 << 20, 1)).await.unwrap();
    let short = bench.uploads.part_writer(&id, 3, Some(5)).await.unwrap().finish().await;
    assert!(matches!(short, Err(MultipartError::Staging(StagingError::TooShort { expected: 5, received: 0 }))));
    assert_eq!(bench.staging.reserved_bytes(), 3 << 20);

    bench.uploads.start("m").await.unwrap();
    let third = bench.uploads.start("m").await.unwrap();
    assert!(matches!(bench.uploads.start("m").await, Err(MultipartError::TooManyUploads { open: 3 })));
    assert!(bench.uploads.abort(&third).await);
    assert!(!bench.uploads.abort(&third).await);
    bench.uploads.start("m").await.unwrap();
    bench.clock.advance(Duration::from_secs(11));
    bench.put(&id, 3, b"progress").await.unwrap();
    bench.uploads.start("a slot of one that is idle").await.unwrap();
    assert_eq!((bench.uploads.count(), bench.uploads.meta(&id)), (2, Some("m")));
    assert!(matches!(bench.put("nonsense", 1, b"x").await, Err(MultipartError::UnknownUpload { .. })));
    assert!(matches!(bench.put(&third, 1, b"x").await, Err(MultipartError::UnknownUpload { .. })));
}

#[tokio::test]
async fn uploads_without_progress_expire_and_others_do_not() {
    let bench = Bench::new(8 << 20);
    let (idle, active) = (bench.uploads.start("i").await.unwrap(), bench.uploads.start("a").await.unwrap());
    bench.put(&idle, 1, b"x").await.unwrap();
    bench.clock.advance(Duration::from_secs(59));
    bench.put(&active, 1, b"y").await.unwrap();
    assert_eq!(bench.uploads.expire().await, 0);
    bench.clock.advance(Duration::from_secs(2));
    assert_eq!(bench.uploads.slots(), UploadSlots { open: 2, limit: 3, idle_max_s: 61 });
    assert_eq!((bench.uploads.expire().await, bench.uploads.count(), entries(&bench.parts())), (1, 1, 1));
    assert!(bench.uploads.abort(&active).await);
    bench.assert_nothing_left();
}

#[tokio::test]
async fn an_upload_holds_a_lock_that_others_see() {
    let bench = Bench::new(8 << 20);
    let id = bench.uploads.start("m").await.unwrap();
    let folder = std::fs::File::open(bench.parts().join(&id)).unwrap();
    let taken = rustix::fs::flock(&folder, rustix::fs::FlockOperation::NonBlockingLockExclusive);
    assert_eq!(taken, Err(rustix::io::Errno::WOULDBLOCK));
    drop(bench.uploads);
    rustix::fs::flock(&folder, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    assert_eq!(entries(&bench.staging.folder(AreaKind::Parts)), 0, "the last registry frees its uploads");
}

#[tokio::test]
async fn an_older_upload_revokes_a_younger_one_whole_even_while_a_part_is_written() {
    let bench = Bench::new(2 << 20);
    let (older, younger) = (bench.uploads.start("o").await.unwrap(), bench.uploads.start("y").await.unwrap());
    bench.put(&older, 1, &bytes(1 << 20, 1)).await.unwrap();
    bench.put(&younger, 1, &bytes(300_000, 1)).await.unwrap();
    let mut writing = bench.uploads.part_writer(&younger, 2, None).await.unwrap();
    writing.write(Bytes::from(bytes(600_000, 1))).await.unwrap();
    bench.put(&older, 2, &bytes(1 << 20, 1)).await.unwrap();
    assert_eq!((bench.staging.reserved_bytes(), entries(&bench.parts())), (2 << 20, 1));

    let refused = writing.write(Bytes::from(bytes(400_000, 1))).await.unwrap_err();
    assert!(refused.to_string().starts_with("Temporary storage budget exhausted"), "{refused}");
    let refused = bench.put(&younger, 3, b"x").await.unwrap_err();
    assert!(refused.to_string().starts_with("Temporary storage budget exhausted"), "{refused}");
    assert_eq!(bench.uploads.count(), 1);

    let (_, body) = bench.uploads.complete(&older, &[1, 2], false).await.unwrap();
    assert_eq!(body.length, 2 << 20);
    drop((body, writing));
    bench.assert_nothing_left();
}

#[tokio::test(start_paused = true)]
async fn an_upload_without_progress_gives_way_to_whoever_waits_and_one_with_progress_does_not() {
    let bench = Bench::new(2 << 20);
    let (idle, active) = (bench.uploads.start("i").await.unwrap(), bench.uploads.start("a").await.unwrap());
    bench.put(&idle, 1, &bytes(1 << 20, 1)).await.unwrap();
    bench.clock.advance(Duration::from_secs(11));
    bench.put(&active, 1, &bytes(900_000, 1)).await.unwrap();

    let spec = BodySpec {
        area: AreaKind::Bootstrap,
        class: BudgetClass::CatchUp,
        length: Some(1 << 20),
        length_max: 8 << 20,
        sha256: false,
    };
    let waited = tokio::time::timeout(Duration::from_secs(1), bench.staging.begin(spec)).await;
    let body = waited.expect("the idle upload gave way").unwrap();
    assert_eq!((bench.uploads.meta(&idle), bench.uploads.meta(&active)), (None, Some("a")));
    let waited = tokio::time::timeout(Duration::from_secs(60), bench.staging.begin(spec)).await;
    assert!(waited.is_err(), "the active upload keeps its room");
    drop(body);
}

#[tokio::test]
async fn an_idle_upload_gives_way_to_a_younger_body_of_unknown_length() {
    let bench = Bench::new(2 << 20);
    let idle = bench.uploads.start("i").await.unwrap();
    bench.put(&idle, 1, &bytes(1 << 20, 1)).await.unwrap();
    bench.put(&idle, 2, &bytes(1 << 20, 1)).await.unwrap();
    let younger = bench.uploads.start("y").await.unwrap();
    assert!(bench.put(&younger, 1, &bytes(300_000, 1)).await.is_err(), "the older one is not idle yet");
    bench.clock.advance(Duration::from_secs(11));
    let younger = bench.uploads.start("y").await.unwrap();
    bench.put(&younger, 1, &bytes(300_000, 1)).await.unwrap();
    assert_eq!(bench.staging.reserved_bytes(), 300_000);
}

#[tokio::test]
async fn joining_is_refused_without_room_and_keeps_the_upload_if_it_is_not_the_oldest() {
    let bench = Bench::new(2 << 20);
    let spec = BodySpec {
        area: AreaKind::Uploads,
        class: BudgetClass::Client,
        length: None,
        length_max: 8 << 20,
        sha256: false,
    };
    let mut oldest = bench.staging.begin(spec).await.unwrap();
    oldest.write(Bytes::from(bytes(600_000, 1))).await.unwrap();
    let id = bench.uploads.start("m").await.unwrap();
    bench.put(&id, 1, &bytes(1 << 20, 3)).await.unwrap();
    let refused = bench.uploads.complete(&id, &[1], false).await.unwrap_err();
    assert!(matches!(refused, MultipartError::Staging(StagingError::BudgetExhausted { .. })), "{refused}");
    drop(oldest);
    assert_eq!(bench.uploads.complete(&id, &[1], false).await.unwrap().1.length, 1 << 20);
    bench.assert_nothing_left();
}

#[tokio::test]
async fn every_disk_operation_of_an_upload_may_fail_and_leaves_nothing_but_what_cannot_be_removed() {
    let bench = Bench::new(8 << 20);
    let whole_upload = async || -> Result<StagedBody, MultipartError> {
        let id = bench.uploads.start("m").await?;
        bench.put(&id, 1, &bytes(700_000, 1)).await?;
        bench.put(&id, 2, &bytes(400_000, 2)).await?;
        Ok(bench.uploads.complete(&id, &[1, 2], false).await?.1)
    };
    bench.disk.set_rule(None);
    drop(whole_upload().await.unwrap());
    for failing in 0..bench.disk.operations() {
        bench.disk.set_rule(Some(Box::new(move |operation, _, number| {
            let is_freeing = operation == crate::core::base::disk::DiskOperation::Unlink;
            (number == failing && !is_freeing).then(|| std::io::ErrorKind::StorageFull.into())
        })));
        if let Err(error) = whole_upload().await {
            assert!(matches!(error, MultipartError::Staging(StagingError::StorageFull { .. })), "{error}");
        }
        bench.clock.advance(Duration::from_secs(61));
        bench.uploads.expire().await;
        bench.assert_nothing_left();
    }
}
