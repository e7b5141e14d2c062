//! Multipart uploads driven by bytes, beside a model of what they hold.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kura::core::base::clock::ManualClock;
use kura::core::base::disk::RealDisk;
use kura::core::base::executor::InlineExecutor;
use kura::core::data_dir::layout::{Layout, ensure_directories};
use kura::core::staging::area::{AreaKind, Staging, StagingOptions};
use kura::core::staging::body_writer::{StagedBody, StagedContent};
use kura::core::staging::multipart::{MultipartOptions, MultipartUploads};

use super::targets::memory_folder;

/// Calls of one run: each makes files.
const CALLS_MAX: usize = 40;

/// Small, so that runs of a few calls meet every limit.
const OPTIONS: MultipartOptions = MultipartOptions {
    uploads_max: 2,
    part_bytes_max: 3000,
    total_bytes_max: 5000,
    idle_max: Duration::from_secs(60),
    yields_after: Duration::from_secs(10),
};

type Parts = BTreeMap<u32, Vec<u8>>;

/// Uploads, and what they have to hold.
struct Run {
    uploads: MultipartUploads<u8>,
    staging: Staging,
    clock: Arc<ManualClock>,
    held: Vec<(String, Parts)>,
}

/// Each three bytes are a call; what completes is what was sent, and nothing stays.
pub fn multipart(data: &[u8]) {
    let folder = memory_folder();
    let layout = Layout::with_default_tmp(folder.path());
    ensure_directories(&layout, &RealDisk).expect("making folders");
    let options = StagingOptions { budget_bytes: 8000, inline_max_bytes: 500, client_wait: Duration::from_millis(1) };
    let staging = Staging::new(&layout, Arc::new(RealDisk), Arc::new(InlineExecutor), options);
    let clock = Arc::new(ManualClock::at(1_700_000_000_000));
    let uploads = MultipartUploads::new(staging.clone(), OPTIONS, clock.clone());
    let mut run = Run { uploads, staging, clock, held: Vec::new() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async {
        for call in data.chunks_exact(3).take(CALLS_MAX) {
            run.call(call[0], call[1], call[2]).await;
        }
        for (upload, _) in std::mem::take(&mut run.held) {
            run.uploads.abort(&upload).await;
        }
    });
    assert_eq!((run.staging.reserved_bytes(), run.uploads.count()), (0, 0));
    let left = std::fs::read_dir(run.staging.folder(AreaKind::Parts)).expect("listing parts").count();
    assert_eq!(left, 0, "parts stay");
}

impl Run {
    async fn call(&mut self, what: u8, one: u8, two: u8) {
        match what % 6 {
            0 => {
                if let Ok(upload) = self.uploads.start(one).await {
                    assert!(self.uploads.count() <= OPTIONS.uploads_max);
                    self.held.push((upload, Parts::new()));
                }
            }
            1 | 2 => self.send(one, two, what.is_multiple_of(2)).await,
            3 => self.complete(one, two).await,
            4 => {
                self.clock.advance(Duration::from_secs(u64::from(one)));
                self.uploads.expire().await;
            }
            _ => {
                if !self.held.is_empty() {
                    let (upload, _) = self.held.remove(usize::from(one) % self.held.len());
                    self.uploads.abort(&upload).await;
                }
            }
        }
        self.held.retain(|(upload, _)| self.uploads.meta(upload).is_some());
    }

    async fn send(&mut self, one: u8, two: u8, is_announced: bool) {
        if self.held.is_empty() {
            return;
        }
        let place = usize::from(one >> 4) % self.held.len();
        let (upload, parts) = &mut self.held[place];
        let (number, bytes) = (u32::from(one % 5), vec![two; usize::from(two) * 13]);
        let announced = is_announced.then_some(bytes.len() as u64 + u64::from(two == 7));
        let Ok(mut writer) = self.uploads.part_writer(upload, number, announced).await else { return };
        if writer.write(Bytes::from(bytes.clone())).await.is_err() || two == 9 {
            return;
        }
        if writer.finish().await.is_ok() {
            assert!(two != 7 || !is_announced, "shorter than announced");
            parts.insert(number, bytes);
        }
    }

    async fn complete(&mut self, one: u8, two: u8) {
        if self.held.is_empty() {
            return;
        }
        let place = usize::from(one >> 4) % self.held.len();
        let (upload, parts) = self.held[place].clone();
        let mut numbers: Vec<u32> = parts.keys().copied().collect();
        match two % 4 {
            1 => numbers.reverse(),
            2 => numbers.push(u32::from(two)),
            _ => {}
        }
        let Ok((_, body)) = self.uploads.complete(&upload, &numbers, two == 3).await else { return };
        assert!(numbers.iter().is_sorted() && numbers.len() == parts.len(), "{numbers:?} of {parts:?}");
        assert_eq!(content(&body), parts.into_values().collect::<Vec<_>>().concat());
    }
}

fn content(body: &StagedBody) -> Vec<u8> {
    match &body.content {
        StagedContent::Inline(bytes) => bytes.to_vec(),
        StagedContent::File(staged) => {
            let mut bytes = vec![0; usize::try_from(body.length).expect("a length")];
            staged.file().read_exact_at(&mut bytes, 0).expect("reading what was joined");
            bytes
        }
    }
}
