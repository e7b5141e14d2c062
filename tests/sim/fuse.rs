//! Death at any step: a fuse counts what a node does to the outside, and once it has burned nothing goes out any more.
//!
//! How it works: every blocking job, disk operation, request and piece of an answer is a step. The step that burns the
//! fuse and all after it do not happen: jobs and exchanges stay pending for ever, disk operations fail without an
//! effect, and whoever talks to the node is reset. So the node stops at that very wait, as a killed process does;
//! its tasks are cleared away a little later, when nobody can tell any more.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use kura::core::base::disk::{Disk, VolumeSpace};
use kura::core::base::executor::{Job, StoreExecutor};
use tokio::sync::Semaphore;

/// One life of a node.
pub struct Fuse {
    /// Steps left, 0 = it is not lit.
    left: AtomicU64,
    burned: AtomicBool,
    /// Jobs that never ran; whoever awaits them waits on.
    limbo: Mutex<Vec<Job>>,
    on_death: Box<dyn Fn() + Send + Sync>,
}

impl std::fmt::Debug for Fuse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fuse").field("left", &self.left).field("burned", &self.burned).finish_non_exhaustive()
    }
}

impl Fuse {
    pub fn new(on_death: Box<dyn Fn() + Send + Sync>) -> Arc<Self> {
        Arc::new(Self { left: 0.into(), burned: false.into(), limbo: Mutex::default(), on_death })
    }

    /// The node dies at this step from now on.
    pub fn light(&self, steps: u64) {
        self.left.store(steps.max(1), Ordering::SeqCst);
    }

    /// It does not die by itself any more.
    pub fn put_out(&self) {
        self.left.store(0, Ordering::SeqCst);
    }

    pub fn has_burned(&self) -> bool {
        self.burned.load(Ordering::SeqCst)
    }

    /// Takes a step; false if the node is dead.
    pub fn step(&self) -> bool {
        if self.has_burned() {
            return false;
        }
        match self.left.load(Ordering::SeqCst) {
            0 => true,
            1 => {
                self.burn();
                false
            }
            left => {
                self.left.store(left - 1, Ordering::SeqCst);
                true
            }
        }
    }

    /// The node is dead from now on.
    pub fn burn(&self) {
        if !self.burned.swap(true, Ordering::SeqCst) {
            (self.on_death)();
        }
    }

    /// Takes a step, or waits for ever.
    pub async fn live(&self) {
        if !self.step() {
            std::future::pending::<()>().await;
        }
    }

    /// Drops what a dead node still held.
    pub fn clear_away(&self) {
        let jobs = std::mem::take(&mut *self.limbo.lock().unwrap_or_else(PoisonError::into_inner));
        drop(jobs);
    }
}

/// Runs each job in the caller while the node lives.
#[derive(Debug)]
pub struct MortalExecutor(pub Arc<Fuse>);

impl StoreExecutor for MortalExecutor {
    fn execute(&self, job: Job) {
        if self.0.step() {
            job();
        } else {
            self.0.limbo.lock().unwrap_or_else(PoisonError::into_inner).push(job);
        }
    }

    fn permits(&self) -> Option<Arc<Semaphore>> {
        None
    }
}

/// A disk that does nothing any more once its node is dead.
#[derive(Debug)]
pub struct MortalDisk {
    pub inner: Arc<dyn Disk>,
    pub fuse: Arc<Fuse>,
}

impl MortalDisk {
    fn live(&self) -> io::Result<&dyn Disk> {
        if self.fuse.step() { Ok(self.inner.as_ref()) } else { Err(io::Error::other("the node is dead")) }
    }
}

impl Disk for MortalDisk {
    fn create_unnamed(&self, folder: &Path) -> io::Result<File> {
        self.live()?.create_unnamed(folder)
    }

    fn create_new(&self, path: &Path) -> io::Result<File> {
        self.live()?.create_new(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.live()?.create_dir(path)
    }

    fn write_all_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.live()?.write_all_at(file, bytes, offset)
    }

    fn set_len(&self, file: &File, length: u64) -> io::Result<()> {
        self.live()?.set_len(file, length)
    }

    fn allocate(&self, file: &File, length: u64) -> io::Result<()> {
        self.live()?.allocate(file, length)
    }

    fn sync_data(&self, file: &File) -> io::Result<()> {
        self.live()?.sync_data(file)
    }

    fn sync_dir(&self, folder: &Path) -> io::Result<()> {
        self.live()?.sync_dir(folder)
    }

    fn sync_filesystem(&self, file: &File) -> io::Result<()> {
        self.live()?.sync_filesystem(file)
    }

    fn link_file(&self, file: &File, path: &Path) -> io::Result<()> {
        self.live()?.link_file(file, path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.live()?.rename(from, to)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.live()?.unlink(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.live()?.remove_dir(path)
    }

    fn unlink_at(&self, folder: &File, name: &OsStr) -> io::Result<()> {
        self.live()?.unlink_at(folder, name)
    }

    fn remove_dir_at(&self, folder: &File, name: &OsStr) -> io::Result<()> {
        self.live()?.remove_dir_at(folder, name)
    }

    fn space(&self, path: &Path) -> io::Result<VolumeSpace> {
        // Asking changes nothing, but a dead node asks nothing either.
        if self.fuse.has_burned() { Err(io::Error::other("the node is dead")) } else { self.inner.space(path) }
    }
}
