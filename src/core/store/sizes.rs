//! How large RocksDB's own files may grow, derived from the volume.
//!
//! Why: its defaults (64 MiB buffers, 4 MiB of MANIFEST preallocation, a MANIFEST of 1 GiB, 1,000 info logs) fill a
//! volume of 64 MiB after 2 MiB of data. Each figure here is a share of the volume between a floor at which RocksDB
//! still works well and a ceiling beyond which it gains nothing.

use crate::core::data_dir::capacity::IndexNeeds;

/// Sizes in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexSizes {
    /// All write-ahead logs together.
    pub wal_bytes: u64,
    /// All memtables together.
    pub write_buffers_bytes: u64,
    /// One memtable.
    pub write_buffer_bytes: u64,
    /// What a memtable takes from the heap at a time.
    pub arena_block_bytes: u64,
    /// One table file.
    pub table_file_bytes: u64,
    /// The MANIFEST, before a new one is begun.
    pub manifest_bytes: u64,
    /// One info log; two are kept.
    pub info_log_bytes: u64,
    /// Puts are refused when less than this is free, so that deletes, flushes and reopening still have room.
    pub put_reserve_bytes: u64,
    /// Stubs of evicted artifacts, about 60 bytes each: a thousandth of the volume.
    pub stubs_max: u64,
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

impl IndexSizes {
    /// What the index needs of the volume for itself.
    pub fn needs(&self) -> IndexNeeds {
        IndexNeeds { wal_bytes: self.wal_bytes, metadata_bytes: self.put_reserve_bytes }
    }

    /// The sizes for a volume.
    pub fn for_volume(total_bytes: u64) -> Self {
        let share = |divisor: u64, floor: u64, ceiling: u64| (total_bytes / divisor).clamp(floor, ceiling);
        let wal_bytes = share(32, MIB, 128 * MIB);
        Self {
            wal_bytes,
            write_buffers_bytes: share(32, MIB, 64 * MIB),
            write_buffer_bytes: share(64, MIB, 32 * MIB),
            arena_block_bytes: share(4096, 16 * KIB, MIB),
            table_file_bytes: share(32, MIB, 64 * MIB),
            manifest_bytes: share(512, 64 * KIB, 16 * MIB),
            info_log_bytes: share(1024, 64 * KIB, 4 * MIB),
            put_reserve_bytes: wal_bytes * 2,
            stubs_max: share(64 * KIB, 4096, 1 << 20),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_a_small_volume_everything_together_is_a_small_share() {
        let sizes = IndexSizes::for_volume(64 * MIB);
        let overhead = sizes.wal_bytes + sizes.manifest_bytes + 2 * sizes.info_log_bytes + sizes.put_reserve_bytes;
        assert!(overhead <= 8 * MIB, "{sizes:?}");
    }

    #[test]
    fn sizes_stay_between_floor_and_ceiling() {
        assert_eq!(IndexSizes::for_volume(0).wal_bytes, MIB);
        assert_eq!(IndexSizes::for_volume(u64::MAX).write_buffers_bytes, 64 * MIB);
    }
}
