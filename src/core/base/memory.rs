//! How the system's allocator treats large blocks.
//!
//! glibc takes each block above a threshold from the kernel and hands it back when it is freed: a transfer, whose buffers
//! have some hundred KiB each, then spends a fifth of its processor time on the kernel's zeroing and mapping of pages.
//! The threshold rises by itself to the size of the largest such block that was ever freed, and free memory at the top
//! of a heap is kept up to twice of that (`M_MMAP_THRESHOLD` in mallopt(3)). So one block, freed at the start, is
//! enough. Other allocators do not mind.

/// The size of blocks that are kept for the next use, in bytes: above the buffers of transfers and of pages of rows.
const KEPT_BLOCK_BYTES: usize = 4 << 20;

/// Makes the allocator keep blocks of up to [`KEPT_BLOCK_BYTES`]; at most twice as much lies idle at the top of each heap.
/// A larger block that is freed later, as a page of a walk is, raises both by itself.
pub fn keep_transfer_buffers() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(KEPT_BLOCK_BYTES)));
}
