//! A long body that was fetched whole and whose commit a kill interrupted: it becomes a partial again, of which nothing
//! is missing, instead of being fetched anew.
//!
//! How it works: on its way to be committed a staged file loses the header of a partial and gets its footer, then its
//! name among the bodies, then its manifest. The footer says as much as the header did. So a partial with a footer, and
//! a body file that got its name and no manifest, get the header back, in the staging area.
//!
//! Invariants: only what came from another store, and is long enough to be a partial, is salvaged; the write of a client
//! that was not acknowledged is nobody's. Nothing is believed: the digest is checked when it is taken up.
//!
//! Failure: what cannot be salvaged is dead staging, or an orphan, as it was before.

use std::fs::File;
use std::io;
use std::path::Path;

use super::footer;
use crate::core::base::disk::Disk;
use crate::core::base::ids::StoreId;
use crate::core::data_dir::layout::Layout;
use crate::core::staging::area::AreaKind;
use crate::core::staging::parked::PARTIAL_BYTES_MIN;
use crate::core::staging::partials::{self, PartialIdentity};

/// What a body file's footer says it is; `None` if it is not worth salvaging.
fn identity(file: &File, tenant_id: &str, own: Option<StoreId>) -> io::Result<Option<PartialIdentity>> {
    if file.metadata()?.len() <= PARTIAL_BYTES_MIN {
        return Ok(None);
    }
    let Some(record) = footer::read(file)? else { return Ok(None) };
    let is_fetched = record.encoding == 0 && record.size == record.stored_size && Some(record.origin) != own;
    Ok(is_fetched.then(|| PartialIdentity {
        id: record.name.artifact_id(tenant_id),
        version: record.version(),
        size: record.size,
        note: record.to_wire_bytes(),
    }))
}

/// Gives partials that were about to be committed their header back, before dead staging is reclaimed. The caller holds
/// the data dir. Returns how many.
pub fn staged_bodies(layout: &Layout, disk: &dyn Disk, tenant_id: &str) -> usize {
    let area = layout.tmp_dir().join(AreaKind::Bootstrap.name());
    let unowned = partials::unowned(&area);
    let salvaged = unowned.into_iter().filter(|(path, file)| {
        let restored = match identity(file, tenant_id, None) {
            Ok(Some(identity)) => partials::restore_header(disk, file, identity).map(|()| true),
            other => other.map(|_| false),
        };
        restored.unwrap_or_else(|error| {
            tracing::warn!(%error, path = %path.display(), "staged_body_not_salvaged");
            false
        })
    });
    salvaged.count()
}

/// Moves a body file without a manifest back into staging; false if it is not worth it.
pub(crate) fn orphan(layout: &Layout, disk: &dyn Disk, path: &Path, tenant_id: &str, own: StoreId) -> io::Result<bool> {
    let file = File::options().read(true).write(true).open(path)?;
    let Some(identity) = identity(&file, tenant_id, Some(own))? else { return Ok(false) };
    partials::restore_header(disk, &file, identity)?;
    let area = layout.tmp_dir().join(AreaKind::Bootstrap.name());
    disk.rename(path, &area.join(partials::new_name()))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::core::base::disk::RealDisk;
    use crate::core::base::executor::InlineExecutor;
    use crate::core::base::ids::BodyNo;
    use crate::core::data_dir::layout::ensure_directories;
    use crate::core::staging::area::{Staging, StagingOptions};
    use crate::core::store::body_files::{body_path, extent_path};
    use crate::core::store::committer::PutOrigin;
    use crate::core::store::evaluate::number_of;
    use crate::core::store::keys::extent_of;
    use crate::core::store::record::Record;
    use crate::core::store::store_tests::{Bench, applied, put};

    const SIZE: u64 = PARTIAL_BYTES_MIN + 4096;

    /// The record of a body that is all zeros, so that its file takes no space.
    fn record(bench: &Bench, origin: StoreId) -> Record {
        let store = bench.open();
        let origin = PutOrigin::Replicated { version_ms: 100, logical: 0, created_at_ms: 100, origin };
        let small = applied(&store, put("ios", "long", b"x", origin));
        let mut hasher = blake3::Hasher::new();
        (0..SIZE / 4096).for_each(|_| _ = hasher.update(&[0; 4096]));
        let digest = crate::core::base::ids::Digest(*hasher.finalize().as_bytes());
        let body_no = BodyNo(number_of(&small).unwrap().0 + 1);
        let body = Some(crate::core::store::record::BodyPlace::File(body_no));
        Record { size: SIZE, stored_size: SIZE, version_ms: 200, digest, body, ..small }
    }

    fn write(path: &Path, record: &Record) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let file = File::create_new(path).unwrap();
        file.write_all_at(&footer::encode(record), SIZE).unwrap();
    }

    fn adopted(bench: &Bench) -> Vec<PartialIdentity> {
        let options = StagingOptions { budget_bytes: 1 << 30, inline_max_bytes: 1, client_wait: Duration::ZERO };
        let staging = Staging::new(&bench.layout(), Arc::new(RealDisk), Arc::new(InlineExecutor), options);
        let adopted = staging.adopt_partials();
        assert_eq!(adopted.durable_bytes, adopted.partials * SIZE, "nothing of it is missing");
        staging.parked_bodies()
    }

    #[test]
    fn a_body_with_its_name_and_without_its_manifest_goes_back_into_staging() {
        for (origin, is_own) in [(StoreId([9; 16]), false), (StoreId([0; 16]), true)] {
            let bench = Bench::new();
            ensure_directories(&bench.layout(), &RealDisk).unwrap();
            let mut record = record(&bench, origin);
            if is_own {
                record.origin = bench.open().stats().store_id;
            }
            let body_no = number_of(&record).unwrap();
            std::fs::create_dir_all(extent_path(&bench.layout(), extent_of(body_no))).unwrap();
            write(&body_path(&bench.layout(), body_no), &record);
            let store = bench.open();
            assert!(!body_path(&bench.layout(), body_no).exists());
            let adopted = adopted(&bench);
            assert_eq!(adopted.len(), usize::from(!is_own), "an upload that was not acknowledged is nobody's");
            if let Some(identity) = adopted.first() {
                assert_eq!((identity.version, identity.size), (record.version(), SIZE));
                assert_eq!(identity.id, record.name.artifact_id("default"));
            }
            drop(store);
        }
    }

    #[test]
    fn a_staged_file_that_has_its_footer_already_is_a_partial_again() {
        let bench = Bench::new();
        ensure_directories(&bench.layout(), &RealDisk).unwrap();
        let record = record(&bench, StoreId([9; 16]));
        let area = bench.layout().tmp_dir().join("bootstrap");
        write(&area.join("partial-1"), &record);
        write(&area.join("bootstrap-1"), &record);
        assert_eq!(adopted(&bench), []);
        assert_eq!(staged_bodies(&bench.layout(), &RealDisk, "default"), 1);
        assert_eq!(staged_bodies(&bench.layout(), &RealDisk, "default"), 0);
        let adopted = adopted(&bench);
        assert_eq!((adopted.len(), adopted[0].version), (1, record.version()));
    }
}
