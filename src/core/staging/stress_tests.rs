//! Everything at once on real threads and a ledger far too small: bodies of known and unknown length, multipart
//! uploads, clients that vanish. Whatever is refused, nothing hangs and nothing is left.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::area::{AreaKind, Staging, StagingError, StagingOptions};
use super::body_writer::BodySpec;
use super::budget::BudgetClass;
use super::multipart::{MultipartError, MultipartOptions, MultipartUploads};
use crate::core::base::clock::SystemClock;
use crate::core::base::disk::RealDisk;
use crate::core::base::executor::ThreadExecutor;
use crate::core::base::rng::{RngExt, SeededRng};
use crate::core::data_dir::layout::{Layout, ensure_directories};

const TASKS: u64 = 120;
const BODY_BYTES_MAX: u64 = 3 << 20;

struct Actor {
    staging: Staging,
    uploads: MultipartUploads<u64>,
    rng: SeededRng,
}

impl Actor {
    async fn body(&self) -> Result<u64, StagingError> {
        let length = 1 + self.rng.below(BODY_BYTES_MAX);
        let is_known = self.rng.below(2) == 0;
        let is_client = self.rng.below(2) == 0;
        let spec = BodySpec {
            area: if is_client { AreaKind::Uploads } else { AreaKind::Bootstrap },
            class: if is_client { BudgetClass::Client } else { BudgetClass::CatchUp },
            length: is_known.then_some(length),
            length_max: BODY_BYTES_MAX,
            sha256: false,
        };
        let mut writer = self.staging.begin(spec).await?;
        let mut left = length;
        while left > 0 {
            let piece = left.min(1 + self.rng.below(400_000));
            writer.write(Bytes::from(vec![7; usize::try_from(piece).unwrap()])).await?;
            left -= piece;
        }
        Ok(writer.finish().await?.length)
    }

    async fn upload(&self) -> Result<u64, MultipartError> {
        let id = self.uploads.start(0).await?;
        let count = 1 + u32::try_from(self.rng.below(4)).unwrap();
        for number in 1..=count {
            let mut part = self.uploads.part_writer(&id, number, None).await?;
            part.write(Bytes::from(vec![1; 300_000])).await?;
            part.write(Bytes::from(vec![2; 300_000])).await?;
            part.finish().await?;
        }
        let numbers: Vec<u32> = (1..=count).collect();
        let completed = self.uploads.complete(&id, &numbers, false).await;
        self.uploads.abort(&id).await;
        Ok(completed?.1.length)
    }

    async fn act(&self) -> Result<u64, String> {
        let vanishes = self.rng.below(4) == 0;
        let work = async {
            match self.rng.below(3) {
                0 => self.upload().await.map_err(|error| error.to_string()),
                _ => self.body().await.map_err(|error| error.to_string()),
            }
        };
        if !vanishes {
            return work.await;
        }
        let after = Duration::from_micros(self.rng.below(20_000));
        tokio::time::timeout(after, work).await.unwrap_or(Ok(0))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_hangs_and_nothing_is_left_when_everything_happens_at_once() {
    let root = tempfile::tempdir().unwrap();
    let layout = Layout::with_default_tmp(root.path());
    ensure_directories(&layout, &RealDisk).unwrap();
    let executor = Arc::new(ThreadExecutor::new(tokio::runtime::Handle::current(), 4));
    let options =
        StagingOptions { budget_bytes: 4 << 20, inline_max_bytes: 1000, client_wait: Duration::from_millis(200) };
    let staging = Staging::new(&layout, Arc::new(RealDisk), executor, options);
    let limits = MultipartOptions {
        uploads_max: 1000,
        part_bytes_max: 1 << 20,
        total_bytes_max: 8 << 20,
        idle_max: Duration::ZERO,
        yields_after: Duration::from_millis(100),
    };
    let uploads = MultipartUploads::new(staging.clone(), limits, Arc::new(SystemClock::default()));
    let tasks = (0..TASKS).map(|seed| {
        let actor = Actor { staging: staging.clone(), uploads: uploads.clone(), rng: SeededRng::new(seed) };
        tokio::spawn(async move {
            let mut refused = 0_u32;
            for _ in 0..10 {
                if let Err(text) = actor.act().await {
                    assert!(text.starts_with("Temporary storage budget exhausted"), "{text}");
                    refused += 1;
                }
            }
            refused
        })
    });
    let all = futures_util::future::join_all(tasks);
    let refusals = tokio::select! {
        refusals = all => refusals,
        () = tokio::time::sleep(Duration::from_secs(100)) => panic!("a deadlock: {:?}", staging.ledger()),
    };
    let refused: u32 = refusals.into_iter().map(|refused| refused.expect("an actor panicked")).sum();
    assert!(refused > 0, "the ledger was never short");
    // Uploads whose client vanished stay until they expire.
    tokio::time::sleep(Duration::from_millis(5)).await;
    let emptied = async {
        while staging.reserved_bytes() > 0 || uploads.count() > 0 {
            uploads.expire().await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), emptied).await.expect("bytes are left in the ledger");
    for area in AreaKind::ALL {
        let left: Vec<_> =
            std::fs::read_dir(staging.folder(area)).unwrap().flatten().map(|entry| entry.path()).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}
