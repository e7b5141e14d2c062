//! The exclusive lock of a data dir.
//!
//! How it works: three locks that the kernel drops with the process, so a crash leaves nothing to clean up.
//! 1. `flock` on the data directory itself. It needs no file, so it works where nothing can be created (a full XFS).
//! 2. `flock` on `.kura.writer.lock`, the seed era's lock, so that both kinds exclude each other. It is made if it is
//!    missing and can be made.
//! 3. An open-file-description (OFD) lock on each of the two. `flock` can only be looked at by taking it, which would
//!    make a starting node fail for an instant; an OFD lock is seen with `F_OFD_GETLK`, which takes nothing. The lock on
//!    the directory is a read lock, since a directory cannot be opened for writing; asking about a write lock meets it.
//!
//! A seed-era holder has no OFD lock; a look finds it in `/proc/locks`, as far as pid namespaces let it be seen.
//! Taking the lock never relies on a look.
//!
//! Invariants: both `flock`s are taken before anything else is touched; every open conflicts with every other, also
//! inside one process. Who holds it is written into the lock file in place, for people: nothing depends on it, and a
//! full volume may prevent it.
//!
//! Failure: a holder that was killed leaves a lock file with its name and no lock.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::layout::Layout;
use super::space::is_storage_full;

/// Most bytes read of a lock file: the holder's lines are far shorter, and a foreign file may be of any size.
const HOLDER_BYTES_MAX: u64 = 4096;

/// Most bytes read of `/proc/locks`, about 100,000 locks.
const PROC_LOCKS_BYTES_MAX: u64 = 8 << 20;

/// Tries at a lock file that is unlinked and made again between open and lock.
const REPLACED_TRIES_MAX: u32 = 16;

/// Who holds a data dir, as far as it can be known.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LockHolder {
    /// Process id on its host.
    pub pid: Option<u32>,
    /// Host name.
    pub host: Option<String>,
    /// Unix milliseconds at which the lock was taken.
    pub since_ms: Option<u64>,
    /// kura's version.
    pub version: Option<String>,
}

impl LockHolder {
    /// This process.
    pub fn current(now_ms: u64) -> Self {
        Self {
            pid: Some(std::process::id()),
            host: Some(host_name()),
            since_ms: Some(now_ms),
            version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        }
    }

    /// Reads `name=value` lines; the first is the seed era's `pid=<n>`, unknown ones are skipped.
    fn parse(text: &str) -> Self {
        let mut holder = Self::default();
        for (name, value) in text.lines().filter_map(|line| line.split_once('=')) {
            match name {
                "pid" => holder.pid = value.parse().ok(),
                "host" => holder.host = Some(value.to_owned()),
                "since_ms" => holder.since_ms = value.parse().ok(),
                "version" => holder.version = Some(value.to_owned()),
                _ => {}
            }
        }
        holder
    }

    fn to_text(&self) -> String {
        let pid = self.pid.unwrap_or_default();
        let since_ms = self.since_ms.unwrap_or_default();
        let (host, version) = (self.host.as_deref().unwrap_or(""), self.version.as_deref().unwrap_or(""));
        format!("pid={pid}\nhost={host}\nsince_ms={since_ms}\nversion={version}\n")
    }
}

impl std::fmt::Display for LockHolder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "pid {pid}")?,
            None => write!(f, "an unknown process")?,
        }
        if let Some(host) = &self.host {
            write!(f, " on {host}")?;
        }
        if let Some(since) =
            self.since_ms.and_then(|ms| jiff::Timestamp::from_millisecond(i64::try_from(ms).ok()?).ok())
        {
            write!(f, " since {since}")?;
        }
        if let Some(version) = &self.version {
            write!(f, " (kura {version})")?;
        }
        Ok(())
    }
}

/// The name of this host, as the kernel has it.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Why the lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds it.
    #[error("failed to acquire writer lock on {path}: held by {holder}")]
    Held {
        /// The lock file or, without one, the data dir.
        path: PathBuf,
        /// Who holds it.
        holder: Box<LockHolder>,
    },
    /// The lock could not be tried.
    #[error("failed to acquire writer lock on {path}")]
    Io {
        /// The lock file or, without one, the data dir.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// What a look at the lock without taking it shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LockState {
    /// Nobody holds it.
    Free,
    /// Somebody holds it.
    Held(LockHolder),
}

/// Exclusive right to change a data dir; released when dropped.
#[derive(Debug)]
pub struct DataDirLock {
    layout: Layout,
    /// `None` where the filesystem cannot lock a directory (NFS).
    folder: Option<File>,
    /// `None` while the lock file is missing and could not or should not be made.
    file: Option<File>,
}

impl DataDirLock {
    /// Takes the lock without waiting, before anything else is touched. Never creates the data dir.
    pub fn try_acquire(layout: &Layout, now_ms: u64) -> Result<Self, LockError> {
        let mut lock = Self { layout: layout.clone(), folder: lock_folder(layout)?, file: None };
        lock.file = lock_file(layout, Missing::Create)?;
        lock.require_any()?;
        lock.write_holder(now_ms);
        Ok(lock)
    }

    /// Takes the lock without writing a byte or a name: for work on a volume that must not be touched before space is
    /// freed. A missing lock file is not made; the directory is locked all the same.
    pub fn try_acquire_without_writing(layout: &Layout) -> Result<Self, LockError> {
        let mut lock = Self { layout: layout.clone(), folder: lock_folder(layout)?, file: None };
        lock.file = lock_file(layout, Missing::Leave)?;
        lock.require_any()?;
        Ok(lock)
    }

    /// Makes and takes the lock file if that was not possible before, now that there may be room.
    /// Returns whether the lock file is held.
    pub fn complete(&mut self, now_ms: u64) -> Result<bool, LockError> {
        if self.file.is_none() {
            self.file = lock_file(&self.layout, Missing::Create)?;
        }
        self.write_holder(now_ms);
        Ok(self.file.is_some())
    }

    /// Looks without taking, creating or changing anything.
    pub fn probe(layout: &Layout) -> Result<LockState, LockError> {
        let folder = open_folder(layout)?;
        let mut is_held = is_held(&folder).map_err(|source| io_error(layout.data_dir(), source))?;
        match File::open(layout.lock()) {
            Ok(file) => is_held |= self::is_held(&file).map_err(|source| io_error(&layout.lock(), source))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(io_error(&layout.lock(), source)),
        }
        Ok(if is_held { LockState::Held(read_holder(&layout.lock())) } else { LockState::Free })
    }

    /// Neither lock could be taken although nobody holds one: nothing would be exclusive.
    fn require_any(&self) -> Result<(), LockError> {
        if self.folder.is_some() || self.file.is_some() {
            return Ok(());
        }
        let source = io::Error::other("neither the directory nor a lock file can be locked on this filesystem");
        Err(io_error(&self.layout.lock(), source))
    }

    /// Overwrites in place: on a full volume the first block of an existing file is still there to be written.
    fn write_holder(&self, now_ms: u64) {
        let Some(file) = &self.file else { return };
        let text = LockHolder::current(now_ms).to_text();
        let length = u64::try_from(text.len()).unwrap_or(u64::MAX);
        let written = file.write_all_at(text.as_bytes(), 0).and_then(|()| file.set_len(length));
        if let Err(error) = written {
            tracing::debug!(%error, path = %self.layout.lock().display(), "lock_holder_not_written");
        }
    }
}

fn io_error(path: &Path, source: io::Error) -> LockError {
    LockError::Io { path: path.to_path_buf(), source }
}

fn held(layout: &Layout, path: PathBuf) -> LockError {
    LockError::Held { path, holder: Box::new(read_holder(&layout.lock())) }
}

fn open_folder(layout: &Layout) -> Result<File, LockError> {
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(layout.data_dir());
    opened.map_err(|source| io_error(layout.data_dir(), source))
}

fn lock_folder(layout: &Layout) -> Result<Option<File>, LockError> {
    let folder = open_folder(layout)?;
    match rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Err(held(layout, layout.data_dir().to_path_buf())),
        // NFS maps flock to a byte-range lock, which a directory cannot have. The lock file then stands alone.
        Err(Errno::BADF | Errno::NOLCK | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => return Ok(None),
        Err(error) => return Err(io_error(layout.data_dir(), error.into())),
    }
    mark(&folder, libc::F_RDLCK, layout.data_dir());
    Ok(Some(folder))
}

/// What to do about a lock file that is not there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    Create,
    Leave,
}

fn lock_file(layout: &Layout, missing: Missing) -> Result<Option<File>, LockError> {
    let path = layout.lock();
    for _ in 0..REPLACED_TRIES_MAX {
        let create = missing == Missing::Create;
        let mut options = OpenOptions::new();
        let file = match options.read(true).write(true).create(create).truncate(false).mode(0o600).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !create => return Ok(None),
            Err(error) if is_storage_full(&error) => return Ok(None),
            Err(source) => return Err(io_error(&path, source)),
        };
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(held(layout, path)),
            Err(error) => return Err(io_error(&path, error.into())),
        }
        if file.metadata().map_err(|source| io_error(&path, source))?.nlink() > 0 {
            mark(&file, libc::F_WRLCK, &path);
            return Ok(Some(file));
        }
    }
    Err(io_error(&path, io::Error::other("the lock file is replaced again and again")))
}

/// Takes the OFD lock that others can see without taking it. It only informs: where it cannot be had the flock counts.
fn mark(file: &File, kind: libc::c_int, path: &Path) {
    if let Err(error) = fcntl(file, FcntlArg::F_OFD_SETLK(&whole_file(kind))) {
        tracing::warn!(%error, path = %path.display(), "lock_not_visible_to_others");
    }
}

fn whole_file(kind: libc::c_int) -> libc::flock {
    let kind = i16::try_from(kind).unwrap_or_default();
    libc::flock { l_type: kind, l_whence: 0, l_start: 0, l_len: 0, l_pid: 0 }
}

/// Whether some open file holds a lock on this file, by an OFD lock or in the kernel's list.
fn is_held(file: &File) -> io::Result<bool> {
    let mut asked = whole_file(libc::F_WRLCK);
    match fcntl(file, FcntlArg::F_OFD_GETLK(&mut asked)) {
        Ok(_) if libc::c_int::from(asked.l_type) != libc::F_UNLCK => return Ok(true),
        Ok(_) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOLCK) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(is_listed(&file.metadata()?))
}

/// Whether `/proc/locks` shows a lock on this inode. Locks of processes in other pid namespaces do not show.
fn is_listed(metadata: &std::fs::Metadata) -> bool {
    let device = metadata.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let wanted = format!("{major:02x}:{minor:02x}:{}", metadata.ino());
    let mut text = String::new();
    let read = File::open("/proc/locks").and_then(|file| file.take(PROC_LOCKS_BYTES_MAX).read_to_string(&mut text));
    read.is_ok() && text.lines().any(|line| line.split_whitespace().any(|word| word == wanted))
}

fn read_holder(path: &Path) -> LockHolder {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(HOLDER_BYTES_MAX).read_to_string(&mut text));
    read.map_or_else(|_| LockHolder::default(), |_| LockHolder::parse(&text))
}

#[cfg(test)]
#[path = "lock_tests.rs"]
mod tests;
