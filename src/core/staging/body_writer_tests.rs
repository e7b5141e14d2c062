//! What a body writer promises: digests and lengths are right, small bodies touch no disk, and nothing is ever left.

use std::io;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use super::*;
use crate::core::base::disk::{Disk, DiskOperation, FaultDisk, RealDisk};
use crate::core::base::executor::{InlineExecutor, Job, StoreExecutor, ThreadExecutor};
use crate::core::data_dir::layout::{Layout, ensure_directories};
use crate::core::staging::area::StagingOptions;

struct Bench {
    _root: tempfile::TempDir,
    layout: Layout,
    disk: Arc<FaultDisk>,
    staging: Staging,
}

impl Bench {
    fn new(budget_bytes: u64, inline_max_bytes: u64) -> Self {
        Self::with_executor(budget_bytes, inline_max_bytes, Arc::new(InlineExecutor))
    }

    fn with_executor(budget_bytes: u64, inline_max_bytes: u64, executor: Arc<dyn StoreExecutor>) -> Self {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::with_default_tmp(root.path());
        ensure_directories(&layout, &RealDisk).unwrap();
        let disk = Arc::new(FaultDisk::new(Arc::new(RealDisk)));
        let options = StagingOptions { budget_bytes, inline_max_bytes, client_wait: Duration::from_millis(50) };
        let staging = Staging::new(&layout, Arc::clone(&disk) as Arc<dyn Disk>, executor, options);
        Self { _root: root, layout, disk, staging }
    }

    /// Makes the filesystem one without `O_TMPFILE`.
    fn refuse_unnamed(&self) {
        let areas: Vec<_> = AreaKind::ALL.iter().map(|area| self.staging.folder(*area)).collect();
        self.disk.set_rule(Some(Box::new(move |operation, path: Option<&Path>, _| {
            let is_area = path.is_some_and(|path| areas.iter().any(|area| area == path));
            (operation == DiskOperation::Create && is_area).then(|| rustix::io::Errno::OPNOTSUPP.into())
        })));
    }

    fn staged_names(&self) -> usize {
        let count = |area: &AreaKind| std::fs::read_dir(self.staging.folder(*area)).unwrap().count();
        AreaKind::ALL.iter().map(count).sum()
    }

    fn assert_nothing_left(&self) {
        assert_eq!((self.staging.reserved_bytes(), self.staged_names()), (0, 0));
    }
}

fn spec(length: Option<u64>) -> BodySpec {
    BodySpec { area: AreaKind::Uploads, class: BudgetClass::Client, length, length_max: 8 << 20, sha256: true }
}

fn body(length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from(at * 7 % 251).unwrap()).collect()
}

async fn stage(staging: &Staging, spec: BodySpec, body: &[u8], chunk: usize) -> Result<StagedBody, StagingError> {
    let mut writer = staging.begin(spec).await?;
    for piece in body.chunks(chunk) {
        writer.write(Bytes::copy_from_slice(piece)).await?;
    }
    writer.finish().await
}

fn content(staged: &StagedBody) -> Vec<u8> {
    use std::os::unix::fs::FileExt;
    match &staged.content {
        StagedContent::Inline(bytes) => bytes.to_vec(),
        StagedContent::File(file) => {
            let mut bytes = vec![0; usize::try_from(file.file().metadata().unwrap().len()).unwrap()];
            file.file().read_exact_at(&mut bytes, 0).unwrap();
            bytes
        }
    }
}

#[tokio::test]
async fn bytes_and_digests_are_those_of_the_body_at_every_size_and_chunking() {
    let bench = Bench::new(64 << 20, 1000);
    let buffer = WRITE_BUFFER_BYTES;
    for length in [0, 1, 999, 1000, 1001, buffer - 1, buffer, buffer + 1, 3 * buffer + 17] {
        for chunk in [777, buffer, 5 * buffer] {
            for announced in [None, Some(u64::try_from(length).unwrap())] {
                let body = body(length);
                let staged = stage(&bench.staging, spec(announced), &body, chunk).await.unwrap();
                assert_eq!(content(&staged), body, "{length} in {chunk}");
                assert_eq!(staged.length, u64::try_from(length).unwrap());
                assert_eq!(staged.digest, Digest::of(&body));
                assert_eq!(staged.sha256.unwrap().0, <[u8; 32]>::from(Sha256::digest(&body)));
                assert_eq!(matches!(staged.content, StagedContent::Inline(_)), length <= 1000);
            }
        }
    }
    bench.assert_nothing_left();
}

#[tokio::test]
async fn small_bodies_touch_neither_disk_nor_ledger() {
    let bench = Bench::new(1, 4096);
    bench.disk.set_rule(None);
    let staged = stage(&bench.staging, spec(Some(4096)), &body(4096), 100).await.unwrap();
    assert_eq!((bench.disk.operations(), bench.staging.reserved_bytes(), staged.length), (0, 0, 4096));
}

#[tokio::test]
async fn a_known_length_is_reserved_until_the_body_is_linked() {
    let bench = Bench::new(1 << 20, 10);
    let staged = stage(&bench.staging, spec(Some(500_000)), &body(500_000), 4096).await.unwrap();
    assert_eq!(bench.staging.reserved_bytes(), 500_000);
    let StagedContent::File(mut file) = staged.content else { panic!("not spilled") };
    let target = bench.layout.bodies().join("body");
    file.link_to(&target).unwrap();
    assert_eq!(bench.staging.reserved_bytes(), 0);
    drop(file);
    assert_eq!(std::fs::read(&target).unwrap(), body(500_000));
    bench.assert_nothing_left();
}

#[tokio::test]
async fn a_filesystem_without_unnamed_files_gets_locked_named_ones() {
    let bench = Bench::new(1 << 20, 10);
    bench.refuse_unnamed();
    let staged = stage(&bench.staging, spec(None), &body(300_000), 4096).await.unwrap();
    let StagedContent::File(mut file) = staged.content else { panic!("not spilled") };
    let name = file.name().unwrap().to_path_buf();
    assert!(name.file_name().unwrap().to_str().unwrap().starts_with("upload-"));
    let other = std::fs::File::open(&name).unwrap();
    let taken = rustix::fs::flock(&other, rustix::fs::FlockOperation::NonBlockingLockExclusive);
    assert_eq!(taken, Err(rustix::io::Errno::WOULDBLOCK));

    let target = bench.layout.bodies().join("body");
    std::fs::write(&target, "in the way").unwrap();
    assert_eq!(file.link_to(&target).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    assert!(name.exists(), "a failed link leaves the staged file with its guard");
    std::fs::remove_file(&target).unwrap();
    file.link_to(&target).unwrap();
    assert!(!name.exists());
    assert_eq!(std::fs::read(&target).unwrap(), body(300_000));

    drop(stage(&bench.staging, spec(None), &body(300_000), 4096).await.unwrap());
    bench.assert_nothing_left();
}

#[tokio::test]
async fn lengths_are_enforced_and_failures_leave_nothing() {
    let bench = Bench::new(64 << 20, 1000);
    for length in [100, 300_000] {
        let announced = spec(Some(length));
        let short = usize::try_from(length).unwrap() - 1;
        let error = stage(&bench.staging, announced, &body(short), 4096).await.unwrap_err();
        assert!(
            matches!(error, StagingError::TooShort { expected, received } if expected == length && received == length - 1)
        );
        let error = stage(&bench.staging, announced, &body(short + 2), 4096).await.unwrap_err();
        assert!(matches!(error, StagingError::TooLong { limit } if limit == length));
        bench.assert_nothing_left();
    }
    let limited = BodySpec { length_max: 300_000, ..spec(None) };
    let error = stage(&bench.staging, limited, &body(300_001), 4096).await.unwrap_err();
    assert!(matches!(error, StagingError::TooLong { limit: 300_000 }));
    assert!(matches!(bench.staging.begin(spec(Some(9 << 20))).await, Err(StagingError::TooLong { .. })));
    bench.assert_nothing_left();
}

#[tokio::test]
async fn every_disk_operation_of_a_body_may_fail_and_leaves_nothing() {
    let bench = Bench::new(64 << 20, 1000);
    bench.disk.set_rule(None);
    drop(stage(&bench.staging, spec(None), &body(700_000), 4096).await.unwrap());
    let operations = bench.disk.operations();
    assert!(operations >= 3);
    for kind in [io::ErrorKind::StorageFull, io::ErrorKind::Other] {
        for failing in 0..operations {
            bench.disk.set_rule(Some(Box::new(move |_, _, number| (number == failing).then(|| kind.into()))));
            let error = stage(&bench.staging, spec(None), &body(700_000), 4096).await.unwrap_err();
            assert_eq!(matches!(error, StagingError::StorageFull { .. }), kind == io::ErrorKind::StorageFull);
            bench.assert_nothing_left();
        }
    }
}

#[tokio::test]
async fn the_youngest_body_of_unknown_length_makes_room_for_the_oldest() {
    let bench = Bench::new(1 << 20, 10);
    let half = Bytes::from(body(512 << 10));
    let mut older = bench.staging.begin(spec(None)).await.unwrap();
    older.write(half.clone()).await.unwrap();
    let mut younger = bench.staging.begin(spec(None)).await.unwrap();
    younger.write(half.clone()).await.unwrap();
    assert_eq!(bench.staging.reserved_bytes(), 1 << 20);

    let refused = younger.write(half.clone()).await.unwrap_err();
    assert!(refused.to_string().starts_with("Temporary storage budget exhausted"), "{refused}");
    assert_eq!(bench.staging.reserved_bytes(), 512 << 10, "a refused body frees its bytes while its writer lives");

    let mut younger = bench.staging.begin(spec(None)).await.unwrap();
    younger.write(half.clone()).await.unwrap();
    older.write(half.clone()).await.unwrap();
    assert_eq!(bench.staging.reserved_bytes(), 1 << 20, "the younger one made room");
    let revoked = younger.finish().await.unwrap_err();
    assert!(matches!(revoked, StagingError::BudgetExhausted { .. }), "{revoked}");

    older.write(half).await.unwrap();
    assert_eq!(bench.staging.reserved_bytes(), 3 << 19, "the oldest alone may overdraw");
    assert_eq!(older.finish().await.unwrap().length, 3 << 19);
    bench.assert_nothing_left();
}

#[tokio::test]
async fn a_body_being_taken_whole_is_not_revoked() {
    let bench = Bench::new(1 << 20, 10);
    let half = Bytes::from(body(600 << 10));
    let mut older = bench.staging.begin(spec(None)).await.unwrap();
    older.write(half.clone()).await.unwrap();
    let whole = stage(&bench.staging, spec(None), &body(300 << 10), 4096).await.unwrap();
    older.write(half).await.unwrap();
    assert_eq!(content(&whole), body(300 << 10));
}

/// Holds jobs back until told, so that a writer can be dropped in the middle of one.
#[derive(Default)]
struct HeldExecutor {
    jobs: Mutex<Vec<Job>>,
}

impl std::fmt::Debug for HeldExecutor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HeldExecutor")
    }
}

impl StoreExecutor for HeldExecutor {
    fn execute(&self, job: Job) {
        self.jobs.lock().unwrap().push(job);
    }

    fn permits(&self) -> Option<Arc<tokio::sync::Semaphore>> {
        None
    }
}

#[tokio::test]
async fn dropping_a_writer_while_its_job_runs_frees_everything_once_the_job_ends() {
    let executor = Arc::new(HeldExecutor::default());
    let bench = Bench::with_executor(8 << 20, 10, Arc::clone(&executor) as Arc<dyn StoreExecutor>);
    bench.refuse_unnamed();
    let mut writer = bench.staging.begin(spec(Some(1 << 20))).await.unwrap();
    {
        let write = writer.write(Bytes::from(body(1 << 20)));
        tokio::pin!(write);
        assert!(futures_util::poll!(write.as_mut()).is_pending());
    }
    drop(writer);
    let jobs: Vec<Job> = std::mem::take(&mut *executor.jobs.lock().unwrap());
    assert_eq!(jobs.len(), 2, "the write and the freeing");
    for job in jobs.into_iter().rev() {
        job();
    }
    bench.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_vanishing_clients_leave_ledger_and_areas_empty() {
    let executor = Arc::new(ThreadExecutor::new(tokio::runtime::Handle::current(), 4));
    let bench = Bench::with_executor(1 << 30, 10, executor);
    let tasks: Vec<_> = (0..200_u64)
        .map(|client| {
            let staging = bench.staging.clone();
            tokio::spawn(async move {
                let announced = (client % 2 == 0).then_some(4 << 20);
                let mut writer = staging.begin(spec(announced)).await.unwrap();
                while writer.write(Bytes::from(vec![1_u8; 100_000])).await.is_ok() && writer.length() < 3 << 20 {}
            })
        })
        .collect();
    tokio::task::yield_now().await;
    tasks.iter().for_each(tokio::task::JoinHandle::abort);
    for task in tasks {
        let _ = task.await;
    }
    let emptied = async {
        while bench.staging.reserved_bytes() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(1), emptied).await.unwrap();
    bench.assert_nothing_left();
}
