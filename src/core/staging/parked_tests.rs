//! Bodies that are begun, left and taken up again, in one process and across a start.

use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::core::base::disk::{Disk, DiskOperation, FaultDisk, RealDisk};
use crate::core::base::executor::InlineExecutor;
use crate::core::base::ids::{Digest, Version};
use crate::core::data_dir::layout::{Layout, ensure_directories};
use crate::core::staging::area::StagingOptions;
use crate::core::staging::body_writer::{StagedBody, StagedContent};
use crate::core::staging::partials::read_header;

const LIMITS: ResumeLimits =
    ResumeLimits { resumable_bytes_min: 1 << 10, partial_bytes_min: 64 << 10, sync_every_bytes: 16 << 10 };

struct Bench {
    root: tempfile::TempDir,
    disk: Arc<FaultDisk>,
    staging: Staging,
}

impl Bench {
    fn new(budget_bytes: u64) -> Self {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::with_default_tmp(root.path());
        ensure_directories(&layout, &RealDisk).unwrap();
        let disk = Arc::new(FaultDisk::new(Arc::new(RealDisk)));
        let staging = open(&root, &disk, budget_bytes);
        Self { root, disk, staging }
    }

    /// As the process that comes after this one.
    fn restart(mut self, budget_bytes: u64) -> Self {
        drop(std::mem::replace(&mut self.staging, open(&self.root, &self.disk, budget_bytes)));
        self
    }

    fn files(&self) -> Vec<PathBuf> {
        let folder = self.staging.folder(AreaKind::Bootstrap);
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    fn parked(&self) -> usize {
        self.staging.parked_bodies().len()
    }

    fn assert_nothing_left(&self) {
        assert_eq!((self.parked(), self.staging.reserved_bytes(), self.files()), (0, 0, Vec::new()));
    }
}

fn open(root: &tempfile::TempDir, disk: &Arc<FaultDisk>, budget_bytes: u64) -> Staging {
    let layout = Layout::with_default_tmp(root.path());
    let options = StagingOptions { budget_bytes, inline_max_bytes: 100, client_wait: Duration::from_millis(600) };
    let disk = Arc::clone(disk) as Arc<dyn Disk>;
    Staging::new(&layout, disk, Arc::new(InlineExecutor), options).with_resume_limits(LIMITS)
}

fn body(seed: u8, length: usize) -> Bytes {
    (0..length).map(|at| u8::try_from((at * 7 + usize::from(seed)) % 251).unwrap()).collect()
}

fn identity_of(body: &[u8], version_ms: u64) -> PartialIdentity {
    let version = Version { version_ms, logical: 0, digest: Digest::of(body) };
    PartialIdentity { id: ArtifactId([1; 32]), version, size: body.len() as u64, note: b"note".to_vec() }
}

fn spec(class: BudgetClass, length: u64) -> BodySpec {
    BodySpec { area: AreaKind::Bootstrap, class, length: Some(length), length_max: 1 << 30, sha256: false }
}

async fn resume(bench: &Bench, identity: &PartialIdentity) -> BodyWriter {
    let spec = spec(BudgetClass::CatchUp, identity.size);
    bench.staging.resume(spec, identity.clone()).await.unwrap()
}

/// Writes a part of a body in pieces and leaves it.
async fn leave(bench: &Bench, identity: &PartialIdentity, body: &Bytes, until: usize) {
    let mut writer = resume(bench, identity).await;
    write(&mut writer, body, until).await;
    writer.park().await;
}

async fn write(writer: &mut BodyWriter, body: &Bytes, until: usize) {
    let from = usize::try_from(writer.length()).unwrap();
    for start in (from..until).step_by(5000) {
        writer.write(body.slice(start..until.min(start + 5000))).await.unwrap();
    }
}

fn content(staged: &StagedBody) -> Vec<u8> {
    let StagedContent::File(file) = &staged.content else { panic!("a file") };
    let mut bytes = vec![0; usize::try_from(staged.length).unwrap()];
    file.file().read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

#[tokio::test]
async fn a_body_goes_on_where_it_was_left_with_and_without_a_name() {
    for (length, names) in [(50_000, 0), (400_000, 1)] {
        let bench = Bench::new(1 << 20);
        let body = body(1, length);
        let identity = identity_of(&body, 1);
        leave(&bench, &identity, &body, length / 3).await;
        assert_eq!((bench.parked(), bench.files().len()), (1, names));
        assert_eq!(bench.staging.reserved_bytes(), length as u64, "all of it stays reserved");
        let mut writer = resume(&bench, &identity).await;
        assert_eq!(writer.length(), length as u64 / 3, "nothing that came is thrown away");
        assert_eq!(bench.parked(), 0);
        write(&mut writer, &body, length).await;
        let staged = writer.finish().await.unwrap();
        assert_eq!((staged.digest, content(&staged)), (identity.version.digest, body.to_vec()));
        drop(staged);
        bench.assert_nothing_left();
    }
}

#[tokio::test]
async fn what_is_dropped_is_parked_and_what_is_discarded_is_gone() {
    let bench = Bench::new(1 << 20);
    let body = body(1, 400_000);
    let identity = identity_of(&body, 1);
    let mut writer = resume(&bench, &identity).await;
    write(&mut writer, &body, 300_000).await;
    drop(writer);
    let writer = resume(&bench, &identity).await;
    assert_eq!(writer.length(), 300_000);
    writer.discard();
    bench.assert_nothing_left();
    let empty = resume(&bench, &identity).await;
    drop(empty);
    bench.assert_nothing_left();
}

#[tokio::test]
async fn the_next_process_goes_on_behind_what_was_synced() {
    let bench = Bench::new(1 << 20);
    let body = body(1, 400_000);
    let identity = identity_of(&body, 1);
    let mut writer = resume(&bench, &identity).await;
    write(&mut writer, &body, 300_000).await;
    // As after a kill: nobody parks, and the file stays as it is.
    let left = bench.files().remove(0);
    let copy = bench.root.path().join("copy");
    std::fs::copy(&left, &copy).unwrap();
    drop(writer);
    std::fs::rename(&copy, &left).unwrap();
    let bench = bench.restart(1 << 20);
    let adopted = bench.staging.adopt_partials();
    assert_eq!((adopted.partials, adopted.removed, bench.parked()), (1, 0, 1));
    assert!(adopted.durable_bytes > 300_000 - 3 * LIMITS.sync_every_bytes - 5000, "{adopted:?}");
    assert_eq!(bench.staging.reserved_bytes(), 400_000, "every staged byte is in the ledger");
    assert_eq!(bench.staging.parked_bodies(), std::slice::from_ref(&identity));
    let mut writer = resume(&bench, &identity).await;
    assert_eq!(writer.length(), adopted.durable_bytes);
    write(&mut writer, &body, 400_000).await;
    let staged = writer.finish().await.unwrap();
    assert_eq!((staged.digest, content(&staged)), (identity.version.digest, body.to_vec()));
    drop(staged);
    bench.assert_nothing_left();
}

#[tokio::test]
async fn a_changed_bit_in_a_partial_shows_in_the_digest() {
    let bench = Bench::new(1 << 20);
    let body = body(1, 400_000);
    let identity = identity_of(&body, 1);
    leave(&bench, &identity, &body, 300_000).await;
    let file = std::fs::File::options().write(true).open(bench.files().remove(0)).unwrap();
    file.write_all_at(&[body[1000] ^ 4], 1000).unwrap();
    let bench = bench.restart(1 << 20);
    assert_eq!(bench.staging.adopt_partials().partials, 1);
    let mut writer = resume(&bench, &identity).await;
    write(&mut writer, &body, 400_000).await;
    assert_ne!(writer.finish().await.unwrap().digest, identity.version.digest);
    bench.assert_nothing_left();
}

#[tokio::test]
async fn another_version_drops_what_is_here_of_an_older_one_and_not_of_a_newer_one() {
    let bench = Bench::new(1 << 21);
    let (old, new) = (body(1, 400_000), body(2, 500_000));
    let (older, newer) = (identity_of(&old, 1), identity_of(&new, 2));
    leave(&bench, &older, &old, 300_000).await;
    let writer = resume(&bench, &newer).await;
    assert_eq!((writer.length(), bench.parked(), bench.files().len()), (0, 0, 0));
    drop(writer);
    leave(&bench, &newer, &new, 300_000).await;
    let mut writer = resume(&bench, &older).await;
    assert_eq!((writer.length(), bench.parked()), (0, 1));
    write(&mut writer, &old, 350_000).await;
    drop(writer);
    assert_eq!(bench.staging.parked_bodies(), std::slice::from_ref(&newer), "the newer one stays, though shorter");
    let same_bytes = PartialIdentity { version: Version { version_ms: 9, ..newer.version }, ..newer };
    assert_eq!(resume(&bench, &same_bytes).await.length(), 300_000, "the same bytes under a newer version");
}

#[tokio::test]
async fn at_a_start_the_best_of_each_artifact_is_kept_as_far_as_the_ledger_goes() {
    let bench = Bench::new(1 << 22);
    let body = body(1, 400_000);
    for (number, until) in [(1, 100_000), (2, 350_000), (3, 200_000)] {
        let identity = PartialIdentity { id: ArtifactId([number; 32]), ..identity_of(&body, u64::from(number)) };
        leave(&bench, &identity, &body, until).await;
    }
    let twin = bench.files().remove(0);
    std::fs::copy(&twin, twin.with_file_name("partial-twin")).unwrap();
    std::fs::write(twin.with_file_name("partial-broken"), vec![0; 9000]).unwrap();
    // Room for two of three, of which catch-up may have three quarters.
    let bench = bench.restart(1_100_000);
    let adopted = bench.staging.adopt_partials();
    assert_eq!((adopted.partials, adopted.removed), (2, 2), "the twin, and the one there is no room for");
    assert_eq!((bench.parked(), bench.staging.reserved_bytes()), (2, 800_000));
    let kept: Vec<u8> = bench.staging.parked_bodies().iter().map(|identity| identity.id.0[0]).collect();
    assert_eq!(kept, [2, 3], "the newest versions");
    assert_eq!(bench.files().len(), 3, "what is no partial is left to the reclaimer");
}

#[tokio::test]
async fn a_parked_body_gives_way_to_whoever_is_short_of_room() {
    let bench = Bench::new(1 << 20);
    let body = body(1, 700_000);
    let identity = identity_of(&body, 1);
    leave(&bench, &identity, &body, 300_000).await;
    // A client waits for room.
    let client = bench.staging.begin(spec(BudgetClass::Client, 900_000)).await.unwrap();
    assert_eq!((bench.parked(), bench.files().len()), (0, 0));
    drop(client);
    assert_eq!(resume(&bench, &identity).await.length(), 0);
    // A body of unknown length grows.
    leave(&bench, &identity, &body, 300_000).await;
    let unknown = BodySpec { length: None, ..spec(BudgetClass::Client, 0) };
    let mut growing = bench.staging.begin(unknown).await.unwrap();
    for _ in 0..3 {
        growing.write(Bytes::from(vec![1; 300_000])).await.unwrap();
    }
    assert_eq!((bench.parked(), bench.files().len()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn another_body_of_its_class_waits_for_those_under_way_before_a_parked_one_gives_way() {
    let bench = Bench::new(1_000_000);
    let body = body(1, 300_000);
    let identity = identity_of(&body, 1);
    leave(&bench, &identity, &body, 200_000).await;
    let under_way = bench.staging.begin(spec(BudgetClass::CatchUp, 400_000)).await.unwrap();
    let staging = bench.staging.clone();
    let waiting = tokio::spawn(async move { staging.begin(spec(BudgetClass::CatchUp, 440_000)).await.unwrap() });
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!((bench.parked(), waiting.is_finished()), (1, false));
    drop(under_way);
    drop(waiting.await.unwrap());
    assert_eq!(bench.parked(), 1, "there was room without it");
    let larger = bench.staging.begin(spec(BudgetClass::CatchUp, 740_000)).await.unwrap();
    assert_eq!(bench.parked(), 0, "nobody else would have made room");
    drop(larger);
    bench.assert_nothing_left();
}

#[tokio::test]
async fn a_sync_that_fails_gives_the_body_up_and_says_why() {
    for (kind, is_full) in [(io::ErrorKind::StorageFull, true), (io::ErrorKind::Other, false)] {
        let bench = Bench::new(1 << 20);
        let body = body(1, 400_000);
        let identity = identity_of(&body, 1);
        let mut writer = resume(&bench, &identity).await;
        writer.write(body.slice(..10_000)).await.unwrap();
        bench.disk.set_rule(Some(Box::new(move |operation, _, _| {
            (operation == DiskOperation::Sync).then(|| io::Error::from(kind))
        })));
        let mut failed = None;
        for start in (10_000..400_000).step_by(5000) {
            if let Err(error) = writer.write(body.slice(start..start + 5000)).await {
                failed = Some(error);
                break;
            }
        }
        let failed = failed.expect("a write after the failed sync");
        assert_eq!(matches!(failed, StagingError::StorageFull { .. }), is_full, "{failed}");
        drop(writer);
        bench.disk.set_rule(None);
        bench.assert_nothing_left();
        assert_eq!(resume(&bench, &identity).await.length(), 0, "nothing of it is believed");
    }
}

/// Every write, sync, create and link of a partial fails once: it goes on from what is durable, or begins anew, and the
/// whole is right in the end.
#[tokio::test]
async fn each_operation_that_fails_once_costs_no_more_than_the_body() {
    let body = body(1, 200_000);
    let identity = identity_of(&body, 1);
    for kind in [io::ErrorKind::StorageFull, io::ErrorKind::Other] {
        for failing in 0.. {
            let bench = Bench::new(1 << 20);
            // A name that cannot be removed stays, for the reclaimer.
            bench.disk.set_rule(Some(Box::new(move |operation, _, number| {
                (operation != DiskOperation::Unlink && number == failing).then(|| io::Error::from(kind))
            })));
            let mut tries = 0;
            let staged = loop {
                tries += 1;
                assert!(tries < 4, "operation {failing} {kind}");
                let mut writer = resume(&bench, &identity).await;
                let from = usize::try_from(writer.length()).unwrap();
                let mut result = Ok(());
                for start in (from..200_000).step_by(5000) {
                    result = writer.write(body.slice(start..200_000.min(start + 5000))).await;
                    if result.is_err() {
                        break;
                    }
                }
                match result {
                    Ok(()) => match writer.finish().await {
                        Ok(staged) => break staged,
                        Err(_) => continue,
                    },
                    Err(_) => writer.park().await,
                }
            };
            assert_eq!((staged.digest, content(&staged)), (identity.version.digest, body.to_vec()));
            let was_reached = bench.disk.operations() > failing;
            drop(staged);
            bench.disk.set_rule(None);
            bench.assert_nothing_left();
            if !was_reached {
                break;
            }
        }
    }
}

#[tokio::test]
async fn the_header_never_says_more_than_was_synced() {
    let bench = Bench::new(1 << 21);
    let body = body(1, 1_500_000);
    let identity = identity_of(&body, 1);
    let mut writer = resume(&bench, &identity).await;
    write(&mut writer, &body, 600_000).await;
    let file = std::fs::File::open(bench.files().remove(0)).unwrap();
    let before = read_header(&file).unwrap().unwrap().durable_bytes;
    assert!(before > 0 && before <= 600_000);
    bench
        .disk
        .set_rule(Some(Box::new(|operation, _, _| (operation == DiskOperation::Sync).then(|| io::Error::other("no")))));
    for start in (600_000..1_500_000).step_by(5000) {
        if writer.write(body.slice(start..start + 5000)).await.is_err() {
            break;
        }
    }
    assert_eq!(read_header(&file).unwrap().unwrap().durable_bytes, before);
}
