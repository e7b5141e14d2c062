//! The staged part of a body, shared by its writer, the job under way and the ledger.
//!
//! How it works: a spool is a staged file, the digests of what is in it, and its reservation. Bytes come with the offset
//! at which they belong; what is there already is skipped, so that a job that was overtaken does no harm. A body that
//! can be taken up again (see [`super::partials`]) may be parked: the file stays, nobody works on it, and the ledger may
//! take its room. One above a size has a name and a header; it is synced piece by piece beside the writing.
//!
//! Invariants: whoever drops a spool last frees the bytes, but for a partial, whose name stays for the next start. After
//! a write or a sync that failed nothing of the body is believed, and its bytes are freed at once.

use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::area::{AreaKind, Staging, StagingError};
use super::body_writer::{BodySpec, Hashers, StagedBody, StagedContent};
use super::budget::{Reservation, Revocable};
use super::partials::{FoundPartial, PARTIAL_LABEL, PartialHeader, PartialIdentity};
use super::staged_file::StagedFile;

/// Read at a time while a found partial is hashed.
const HASH_CHUNK_BYTES: usize = 1 << 20;

/// The staged part of a body.
#[derive(Debug)]
pub(super) struct Spool {
    area: AreaKind,
    /// What it is, if it can be taken up again.
    identity: Option<PartialIdentity>,
    state: Mutex<SpoolState>,
}

#[derive(Debug)]
enum SpoolState {
    /// Reserved or growing, nothing written yet.
    Empty(Reservation, Hashers),
    Open(OpenSpool),
    /// Nobody works on it for now.
    Parked(OpenSpool),
    /// Left by an earlier process and not hashed yet.
    Found(FoundPartial),
    /// The room was needed.
    Revoked,
    /// A sync beside the writing failed; the writer is yet to be told.
    Broken(StagingError),
    /// A write failed, or the body was taken whole.
    Closed,
}

#[derive(Debug)]
struct OpenSpool {
    file: StagedFile,
    hashers: Hashers,
    written: u64,
    is_growing: bool,
    partial: Option<Partial>,
}

/// The part of an open spool that has a header.
#[derive(Debug)]
struct Partial {
    /// As last written.
    header: PartialHeader,
    is_syncing: bool,
}

impl Spool {
    /// An empty one.
    pub(super) fn start(
        staging: &Staging,
        spec: &BodySpec,
        identity: Option<PartialIdentity>,
        reserved: Option<Reservation>,
    ) -> Arc<Self> {
        let spool = Arc::new(Self { area: spec.area, identity, state: Mutex::new(SpoolState::Closed) });
        let reservation = reserved.unwrap_or_else(|| {
            let body: Arc<dyn Revocable> = Arc::clone(&spool) as Arc<dyn Revocable>;
            staging.ledger().start_growing(spec.class, Arc::downgrade(&body))
        });
        *spool.state() = SpoolState::Empty(reservation, Hashers::new(spec.sha256));
        spool
    }

    /// One that an earlier process left, parked.
    pub(super) fn adopt(found: FoundPartial, reservation: Reservation) -> Arc<Self> {
        let identity = Some(found.header.identity.clone());
        let mut found = found;
        found.file.set_reservation(reservation);
        let spool = Arc::new(Self { area: AreaKind::Bootstrap, identity, state: Mutex::new(SpoolState::Found(found)) });
        spool.park_reservation(&mut spool.state());
        spool
    }

    fn state(&self) -> MutexGuard<'_, SpoolState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it is, if it can be taken up again.
    pub(super) fn identity(&self) -> Option<&PartialIdentity> {
        self.identity.as_ref()
    }

    /// Bytes that are in the file.
    pub(super) fn written(&self) -> u64 {
        match &*self.state() {
            SpoolState::Open(open) | SpoolState::Parked(open) => open.written,
            SpoolState::Found(found) => found.header.durable_bytes,
            _ => 0,
        }
    }

    /// Writes and hashes bytes that belong at an offset; a failure frees what was staged at once.
    pub(super) fn append(self: &Arc<Self>, staging: &Staging, at: u64, pieces: &[Bytes]) -> Result<(), StagingError> {
        self.append_locked(staging, at, pieces)?;
        self.sync_beside(staging);
        Ok(())
    }

    fn append_locked(&self, staging: &Staging, at: u64, pieces: &[Bytes]) -> Result<(), StagingError> {
        let mut state = self.state();
        let taken = std::mem::replace(&mut *state, SpoolState::Closed);
        let refused = |what: &str| staging.io_error(self.area, "write a staged body", std::io::Error::other(what));
        let mut open = match taken {
            SpoolState::Empty(reservation, hashers) => self.create(staging, reservation, hashers)?,
            SpoolState::Open(open) => open,
            SpoolState::Revoked => {
                *state = SpoolState::Revoked;
                return Err(staging.exhausted(pieces.iter().map(Bytes::len).sum()));
            }
            SpoolState::Broken(error) => return Err(error),
            parked @ (SpoolState::Parked(_) | SpoolState::Found(_)) => {
                *state = parked;
                return Err(refused("nobody works on this body any more"));
            }
            SpoolState::Closed => return Err(refused("an earlier write of this body failed")),
        };
        open.append(staging, self.area, at, pieces)?;
        *state = SpoolState::Open(open);
        Ok(())
    }

    fn create(&self, staging: &Staging, reservation: Reservation, hashers: Hashers) -> Result<OpenSpool, StagingError> {
        let named = self.identity.as_ref().filter(|identity| identity.size > staging.limits().partial_bytes_min);
        let mut file = match named {
            Some(_) => staging.create_named_file(self.area, PARTIAL_LABEL)?,
            None => staging.create_file(self.area)?,
        };
        let is_growing = reservation.is_growing();
        file.set_reservation(reservation);
        let mut open = OpenSpool { file, hashers, written: 0, is_growing, partial: None };
        if let Some(identity) = named {
            open.write_header(
                staging,
                self.area,
                PartialHeader { sequence: 1, identity: identity.clone(), durable_bytes: 0 },
            )?;
        }
        Ok(open)
    }

    /// Takes the whole body out. It may have been revoked since its last write.
    pub(super) fn finish(&self, staging: &Staging, length: u64) -> Result<StagedBody, StagingError> {
        let taken = std::mem::replace(&mut *self.state(), SpoolState::Closed);
        let mut open = match taken {
            SpoolState::Open(open) => open,
            SpoolState::Broken(error) => return Err(error),
            _ => return Err(staging.exhausted(0)),
        };
        // From here to the commit a kill costs nothing, and the commit itself has little left to sync.
        open.sync_if_behind(staging, self.area, 1)?;
        if let Some(reservation) = open.file.reservation_mut() {
            reservation.settle();
        }
        let (digest, sha256) = open.hashers.finish();
        Ok(StagedBody { length, digest, sha256, content: StagedContent::File(open.file) })
    }

    /// Leaves the body to whoever takes it up, or to the ledger; false if there is nothing worth keeping.
    pub(super) fn park(self: &Arc<Self>, staging: &Staging) -> bool {
        {
            let mut state = self.state();
            match std::mem::replace(&mut *state, SpoolState::Closed) {
                SpoolState::Open(open) if self.identity.is_some() && open.written > 0 => {
                    *state = SpoolState::Parked(open);
                }
                other => {
                    drop(other);
                    return false;
                }
            }
            self.park_reservation(&mut state);
        }
        self.sync_beside(staging);
        true
    }

    fn park_reservation(self: &Arc<Self>, state: &mut SpoolState) {
        let body: Arc<dyn Revocable> = Arc::clone(self) as Arc<dyn Revocable>;
        if let Some(reservation) = state.file_mut().and_then(StagedFile::reservation_mut) {
            reservation.park(Arc::downgrade(&body));
        }
    }

    /// Takes a parked body up; false if it was revoked meanwhile or cannot be read. Blocks while a found one is hashed.
    pub(super) fn unpark(&self, spec: &BodySpec) -> bool {
        let mut state = self.state();
        let mut taken = std::mem::replace(&mut *state, SpoolState::Closed);
        if let Some(reservation) = taken.file_mut().and_then(StagedFile::reservation_mut) {
            reservation.unpark();
        }
        let open = match taken {
            SpoolState::Parked(open) if open.hashers.takes_sha256() == spec.sha256 => Ok(open),
            SpoolState::Parked(open) => open.rehashed(spec),
            SpoolState::Found(found) => OpenSpool::of_found(found, spec),
            SpoolState::Revoked => {
                *state = SpoolState::Revoked;
                return false;
            }
            _ => return false,
        };
        match open {
            Ok(open) => *state = SpoolState::Open(open),
            Err(error) => tracing::warn!(%error, "partial_not_hashed"),
        }
        matches!(&*state, SpoolState::Open(_))
    }

    /// Frees the bytes whatever the state, unless the body was taken whole.
    pub(super) fn discard(&self) {
        let taken = std::mem::replace(&mut *self.state(), SpoolState::Closed);
        drop(taken);
    }

    /// Starts a sync of what was written since the last one if that is enough, or if nothing more will be written.
    fn sync_beside(self: &Arc<Self>, staging: &Staging) {
        let due = {
            let mut state = self.state();
            let every = if matches!(&*state, SpoolState::Parked(_)) { 1 } else { staging.limits().sync_every_bytes };
            state.open_mut().and_then(|open| open.begin_sync(every))
        };
        let Some((file, written)) = due else { return };
        let (spool, staging) = (Arc::clone(self), staging.clone());
        let executor = Arc::clone(staging.executor());
        executor.execute(Box::new(move || {
            let disk = staging.disk();
            let piece = disk.sync_data(&file);
            spool.note_synced(&staging, piece, |open| open.note_durable(&staging, spool.area, written));
            // The header says so only once it is durable itself: a loss of power would cost the piece after all.
            let header = disk.sync_data(&file);
            spool.note_synced(&staging, header, |_| Ok(()));
        }));
    }

    fn note_synced(
        &self,
        staging: &Staging,
        synced: std::io::Result<()>,
        note: impl FnOnce(&mut OpenSpool) -> Result<(), StagingError>,
    ) {
        let mut state = self.state();
        let Some(open) = state.open_mut() else { return };
        let synced = synced.map_err(|error| staging.io_error(self.area, "sync a staged body", error));
        if let Err(error) = synced.and_then(|()| note(open)) {
            tracing::warn!(%error, "partial_given_up");
            *state = SpoolState::Broken(error);
        }
    }
}

impl Revocable for Spool {
    fn revoke(&self) {
        let mut state = self.state();
        if !matches!(&*state, SpoolState::Closed | SpoolState::Broken(_)) {
            tracing::warn!(area = self.area.name(), "staged_body_gave_way_to_an_older_one");
            drop(std::mem::replace(&mut *state, SpoolState::Revoked));
        }
    }

    /// Only a parked one has nobody who works on it.
    fn revoke_if_idle(&self) -> bool {
        let Ok(mut state) = self.state.try_lock() else { return false };
        let is_idle = matches!(&*state, SpoolState::Parked(_) | SpoolState::Found(_));
        if is_idle {
            tracing::info!(artifact = ?self.identity.as_ref().map(|identity| identity.id), "partial_gave_way");
            drop(std::mem::replace(&mut *state, SpoolState::Revoked));
        }
        is_idle
    }
}

impl Drop for Spool {
    /// The process ends, or is about to: what has a header stays for the next start.
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        let is_known = match &*state {
            SpoolState::Open(open) | SpoolState::Parked(open) => open.partial.is_some(),
            SpoolState::Found(_) => true,
            _ => false,
        };
        if let Some(file) = state.file_mut().filter(|_| is_known) {
            file.keep_name();
        }
    }
}

impl SpoolState {
    fn open_mut(&mut self) -> Option<&mut OpenSpool> {
        match self {
            Self::Open(open) | Self::Parked(open) => Some(open),
            _ => None,
        }
    }

    fn file_mut(&mut self) -> Option<&mut StagedFile> {
        match self {
            Self::Open(open) | Self::Parked(open) => Some(&mut open.file),
            Self::Found(found) => Some(&mut found.file),
            _ => None,
        }
    }
}

impl OpenSpool {
    fn of_found(found: FoundPartial, spec: &BodySpec) -> std::io::Result<Self> {
        let FoundPartial { header, file } = found;
        let written = header.durable_bytes;
        let partial = Some(Partial { header, is_syncing: false });
        Self { file, hashers: Hashers::new(spec.sha256), written, is_growing: false, partial }.rehashed(spec)
    }

    /// The same with the digests that are asked for, taken from what lies in the file.
    fn rehashed(mut self, spec: &BodySpec) -> std::io::Result<Self> {
        self.hashers = Hashers::new(spec.sha256);
        let mut buffer = vec![0_u8; HASH_CHUNK_BYTES];
        let mut offset = 0;
        while offset < self.written {
            let want = usize::try_from(self.written - offset).unwrap_or(usize::MAX).min(HASH_CHUNK_BYTES);
            let Some(part) = buffer.get_mut(..want) else { break };
            self.file.file().read_exact_at(part, offset)?;
            self.hashers.update(part);
            offset += want as u64;
        }
        Ok(self)
    }

    fn append(&mut self, staging: &Staging, area: AreaKind, at: u64, pieces: &[Bytes]) -> Result<(), StagingError> {
        if self.is_growing {
            let more = pieces.iter().map(Bytes::len).sum::<usize>();
            let reservation = self.file.reservation_mut();
            reservation.map_or(Ok(()), |reservation| reservation.grow(u64::try_from(more).unwrap_or(u64::MAX)))?;
        }
        let mut offset = at;
        for piece in pieces {
            let end = offset.saturating_add(u64::try_from(piece.len()).unwrap_or(u64::MAX));
            if let Some(fresh) = self.fresh_part(offset, piece) {
                self.write(staging, area, &fresh)?;
            }
            offset = end;
        }
        if offset > self.written {
            let source = std::io::Error::other("bytes in front of these are missing");
            return Err(staging.io_error(area, "write a staged body", source));
        }
        // A disk slower than the network must not let the piece grow that a kill costs.
        self.sync_if_behind(staging, area, staging.limits().sync_every_bytes.saturating_mul(2))
    }

    /// The part of a piece that is not in the file yet and belongs at its end.
    fn fresh_part(&self, offset: u64, piece: &Bytes) -> Option<Bytes> {
        let known = usize::try_from(self.written.checked_sub(offset)?).ok()?;
        (known < piece.len()).then(|| piece.slice(known..))
    }

    fn write(&mut self, staging: &Staging, area: AreaKind, bytes: &[u8]) -> Result<(), StagingError> {
        let written = staging.disk().write_all_at(self.file.file(), bytes, self.written);
        written.map_err(|error| staging.io_error(area, "write a staged body", error))?;
        self.hashers.update(bytes);
        self.written = self.written.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        Ok(())
    }

    /// Syncs at once if so many bytes of a partial are not durable.
    fn sync_if_behind(&mut self, staging: &Staging, area: AreaKind, most: u64) -> Result<(), StagingError> {
        let Some(partial) = &self.partial else { return Ok(()) };
        if self.written.saturating_sub(partial.header.durable_bytes) < most {
            return Ok(());
        }
        let synced = staging.disk().sync_data(self.file.file());
        synced.map_err(|error| staging.io_error(area, "sync a staged body", error))?;
        self.note_durable(staging, area, self.written)
    }

    /// The file to be synced and how much of it counts then, if enough is not durable yet and no sync is under way.
    fn begin_sync(&mut self, every: u64) -> Option<(std::fs::File, u64)> {
        let written = self.written;
        let partial = self.partial.as_mut()?;
        if partial.is_syncing || written.saturating_sub(partial.header.durable_bytes) < every {
            return None;
        }
        let file = self.file.file().try_clone().ok()?;
        partial.is_syncing = true;
        Some((file, written))
    }

    fn note_durable(&mut self, staging: &Staging, area: AreaKind, written: u64) -> Result<(), StagingError> {
        let Some(partial) = self.partial.as_mut() else { return Ok(()) };
        partial.is_syncing = false;
        if written <= partial.header.durable_bytes {
            return Ok(());
        }
        let sequence = partial.header.sequence.saturating_add(1);
        let header = PartialHeader { sequence, durable_bytes: written, ..partial.header.clone() };
        self.write_header(staging, area, header)
    }

    fn write_header(&mut self, staging: &Staging, area: AreaKind, header: PartialHeader) -> Result<(), StagingError> {
        let mut slot = header.encode();
        slot.resize(super::partials::SLOT_BYTES as usize, 0);
        let refused = |error| staging.io_error(area, "write the header of a partial", error);
        if header.sequence == 1 {
            let length = super::partials::file_bytes(header.identity.size);
            staging.disk().set_len(self.file.file(), length).map_err(refused)?;
        }
        staging.disk().write_all_at(self.file.file(), &slot, header.offset()).map_err(refused)?;
        self.partial = Some(Partial { header, is_syncing: false });
        Ok(())
    }
}
