//! The three staging areas under the tmp dir, and the one handle through which bytes are staged.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::body_writer::{BodySpec, BodyWriter};
use super::budget::{BudgetClass, Ledger, Reservation};
use super::parked::{ParkedBodies, ResumeLimits};
use super::staged_file::StagedFile;
use crate::core::base::disk::{Disk, VolumeSpace};
use crate::core::base::executor::{self, StoreExecutor};
use crate::core::data_dir::layout::Layout;
use crate::core::data_dir::space::is_storage_full;

/// How often somebody who waits for room looks for what nobody works on any more.
const RELIEF_INTERVAL: Duration = Duration::from_millis(250);

/// One of the areas; the names are those of the seed era, so that either kind reclaims the other's leftovers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AreaKind {
    /// Bodies that clients or seed-era peers send.
    Uploads,
    /// Parts of multipart uploads.
    Parts,
    /// Bodies fetched from peers.
    Bootstrap,
}

impl AreaKind {
    /// All areas.
    pub const ALL: [Self; 3] = [Self::Uploads, Self::Parts, Self::Bootstrap];

    /// The folder's name under the tmp dir.
    pub fn name(self) -> &'static str {
        match self {
            Self::Uploads => "uploads",
            Self::Parts => "parts",
            Self::Bootstrap => "bootstrap",
        }
    }

    /// How names of staged files in it begin, where they have names.
    pub fn label(self) -> &'static str {
        match self {
            Self::Uploads => "upload",
            Self::Parts => "module",
            Self::Bootstrap => "bootstrap",
        }
    }
}

/// Why bytes could not be staged.
#[derive(Debug, thiserror::Error)]
pub enum StagingError {
    /// The ledger stayed full for the whole bounded wait.
    #[error("Temporary storage budget exhausted: {requested} bytes asked, {in_use} of {budget} in use")]
    BudgetExhausted {
        /// Bytes asked for.
        requested: u64,
        /// Bytes reserved by all.
        in_use: u64,
        /// The ledger's size.
        budget: u64,
    },
    /// The body is longer than was allowed or announced.
    #[error("the body is longer than {limit} bytes")]
    TooLong {
        /// The limit it passed.
        limit: u64,
    },
    /// The body ended before its announced length.
    #[error("the body ended after {received} of {expected} bytes")]
    TooShort {
        /// Bytes that arrived.
        received: u64,
        /// Bytes that were announced.
        expected: u64,
    },
    /// No space is left on the volume.
    #[error("no space left on the volume of {path}")]
    StorageFull {
        /// Where it was tried.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Anything else the disk said.
    #[error("failed to {action} in {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// How staging is set up.
#[derive(Debug, Clone)]
pub struct StagingOptions {
    /// The ledger's size in bytes.
    pub budget_bytes: u64,
    /// Bodies up to this many bytes stay in memory and never enter an area.
    pub inline_max_bytes: u64,
    /// How long a client waits for room in the ledger.
    pub client_wait: Duration,
}

/// The staging areas and their ledger; cheap to clone.
#[derive(Debug, Clone)]
pub struct Staging {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    layout: Layout,
    disk: Arc<dyn Disk>,
    executor: Arc<dyn StoreExecutor>,
    options: StagingOptions,
    limits: ResumeLimits,
    ledger: Ledger,
    parked: ParkedBodies,
    /// Set once the filesystem refused a file without a name; files are named and locked from then on.
    is_naming: AtomicBool,
}

impl Staging {
    /// Uses the areas of this layout, which [`crate::core::data_dir::layout`] has made.
    pub fn new(
        layout: &Layout,
        disk: Arc<dyn Disk>,
        executor: Arc<dyn StoreExecutor>,
        options: StagingOptions,
    ) -> Self {
        let ledger = Ledger::new(options.budget_bytes, options.client_wait);
        // A file without a name gets one through /proc; without it names are needed from the start.
        let is_naming = AtomicBool::new(!Path::new("/proc/self/fd").exists());
        let layout = layout.clone();
        let (limits, parked) = (ResumeLimits::default(), ParkedBodies::default());
        Self { inner: Arc::new(Inner { layout, disk, executor, options, limits, ledger, parked, is_naming }) }
    }

    /// With other bounds than the house's for bodies that can be taken up again; before it is shared.
    #[must_use]
    pub fn with_resume_limits(mut self, limits: ResumeLimits) -> Self {
        if let Some(inner) = Arc::get_mut(&mut self.inner) {
            inner.limits = limits;
        }
        self
    }

    /// Reserves room (waiting as the class allows) and starts a body.
    pub async fn begin(&self, spec: BodySpec) -> Result<BodyWriter, StagingError> {
        if spec.length.is_some_and(|length| length > spec.length_max) {
            return Err(StagingError::TooLong { limit: spec.length_max });
        }
        let reserved = match spec.length.filter(|length| *length > self.inner.options.inline_max_bytes) {
            Some(length) => Some(self.reserve(spec.class, length).await?),
            None => None,
        };
        Ok(BodyWriter::new(self.clone(), spec, reserved))
    }

    /// Waits in the ledger's queue; while it does, what nobody works on any more has to give way.
    pub(super) async fn reserve(&self, class: BudgetClass, bytes: u64) -> Result<Reservation, StagingError> {
        let granted = self.inner.ledger.reserve(class, bytes);
        tokio::pin!(granted);
        loop {
            tokio::select! {
                biased;
                granted = &mut granted => return granted,
                () = tokio::time::sleep(RELIEF_INTERVAL) => {
                    let ledger = self.inner.ledger.clone();
                    // A lost job means that the process ends; the wait goes on as it was.
                    let _ = executor::run(self.inner.executor.as_ref(), move || ledger.revoke_idle(class)).await;
                }
            }
        }
    }

    /// Bytes reserved in the ledger now.
    pub fn reserved_bytes(&self) -> u64 {
        self.inner.ledger.in_use()
    }

    /// The ledger's size in bytes.
    pub fn budget_bytes(&self) -> u64 {
        self.inner.ledger.budget()
    }

    /// The ledger of all staged bytes.
    pub fn ledger(&self) -> &Ledger {
        &self.inner.ledger
    }

    /// Where an area lies.
    pub fn folder(&self, area: AreaKind) -> PathBuf {
        self.inner.layout.tmp_dir().join(area.name())
    }

    /// Bodies up to this size stay in memory and lie inside the index.
    pub fn inline_max_bytes(&self) -> u64 {
        self.options().inline_max_bytes
    }

    pub(super) fn options(&self) -> &StagingOptions {
        &self.inner.options
    }

    /// The room of the volume.
    ///
    /// # Errors
    /// What the system says.
    pub fn volume(&self) -> io::Result<VolumeSpace> {
        self.disk().space(self.inner.layout.data_dir())
    }

    /// The bounds for bodies that can be taken up again.
    pub fn limits(&self) -> &ResumeLimits {
        &self.inner.limits
    }

    pub(super) fn parked(&self) -> &ParkedBodies {
        &self.inner.parked
    }

    pub(super) fn disk(&self) -> &Arc<dyn Disk> {
        &self.inner.disk
    }

    pub(super) fn executor(&self) -> &Arc<dyn StoreExecutor> {
        &self.inner.executor
    }

    pub(super) fn exhausted(&self, requested: usize) -> StagingError {
        StagingError::BudgetExhausted {
            requested: u64::try_from(requested).unwrap_or(u64::MAX),
            in_use: self.reserved_bytes(),
            budget: self.budget_bytes(),
        }
    }

    pub(super) fn io_error(&self, area: AreaKind, action: &'static str, source: io::Error) -> StagingError {
        let path = self.folder(area);
        if is_storage_full(&source) {
            return StagingError::StorageFull { path, source };
        }
        StagingError::Io { action, path, source }
    }

    /// A file without a name where the filesystem has that, else a locked named one. Blocks.
    pub(super) fn create_file(&self, area: AreaKind) -> Result<StagedFile, StagingError> {
        let folder = self.folder(area);
        if !self.inner.is_naming.load(Ordering::Relaxed) {
            match StagedFile::unnamed(Arc::clone(self.disk()), &folder) {
                Ok(file) => return Ok(file),
                Err(error) if lacks_unnamed_files(&error) => self.inner.is_naming.store(true, Ordering::Relaxed),
                Err(error) => return Err(self.io_error(area, "create a staged file", error)),
            }
        }
        self.create_named_file(area, area.label())
    }

    /// A locked, named file. Blocks.
    pub(super) fn create_named_file(&self, area: AreaKind, label: &str) -> Result<StagedFile, StagingError> {
        let named = StagedFile::named(Arc::clone(self.disk()), &self.folder(area), label);
        named.map_err(|error| self.io_error(area, "create a staged file", error))
    }
}

/// What a filesystem or kernel without `O_TMPFILE` answers: it takes the flag for a directory open, or refuses it.
fn lacks_unnamed_files(error: &io::Error) -> bool {
    let codes = [rustix::io::Errno::OPNOTSUPP, rustix::io::Errno::ISDIR, rustix::io::Errno::INVAL];
    codes.iter().any(|code| error.raw_os_error() == Some(code.raw_os_error()))
}
