//! Control groups as the kernel lays them out, below a root of the test.

use super::*;
use crate::core::doctor::context::{Mode, World};
use crate::core::doctor::finding::Status;
use crate::core::doctor::test_support::{config, context_with, look, world};

/// The check under a limit of the second generation.
fn under(limit: &str, cache_bytes: u64) -> Outcome {
    let root = tempfile::tempdir().unwrap();
    for folder in ["proc/self", "sys/fs/cgroup/pod"] {
        std::fs::create_dir_all(root.path().join(folder)).unwrap();
    }
    let write = |path: &str, text: &str| std::fs::write(root.path().join(path), text).unwrap();
    write("proc/meminfo", "MemTotal:       67108864 kB\n");
    write("proc/self/cgroup", "0::/pod\n");
    write("sys/fs/cgroup/pod/memory.max", limit);
    let config = Config { metadata_store_read_cache_bytes: cache_bytes, ..config(root.path()) };
    let world = World { root: root.path().to_owned(), ..world() };
    look(&MemoryBudget, &context_with(config, Mode::Auto, world))
}

#[test]
fn a_group_with_room_is_quiet_and_one_without_a_limit_is_as_large_as_the_machine() {
    assert_eq!(under("2147483648\n", 64 << 20).status, Status::Ok);
    let unlimited = under("max\n", 64 << 20);
    assert_eq!((unlimited.status, &unlimited.evidence.values()["limit_bytes"]), (Status::Ok, &(64_u64 << 30).into()));
}

#[test]
fn a_group_too_small_for_the_caches_fails_and_a_tight_one_warns() {
    let failed = under("268435456\n", 512 << 20);
    assert_eq!((failed.status, &failed.evidence.values()["left_bytes"]), (Status::Fail, &0.into()), "{failed:?}");
    assert_eq!(failed.evidence.details()[0], "read_cache: 512 MiB");
    let remedy = failed.remedy.unwrap().text;
    assert!(remedy.contains("--metadata-store-read-cache-bytes"), "{remedy}");
    let needed = under("2147483648\n", 512 << 20).evidence.values()["needed_bytes"].as_u64().unwrap();
    let tight = under(&(needed + (1 << 20)).to_string(), 512 << 20);
    assert_eq!((tight.status, &tight.evidence.values()["left_bytes"]), (Status::Warn, &(1_u64 << 20).into()));
}

#[test]
fn the_smallest_container_worth_running_in_is_enough_for_the_defaults() {
    // What settings derive from 512 MiB and two CPUs.
    let outcome = under("536870912\n", 16 << 20);
    assert_eq!(outcome.status, Status::Ok, "{outcome:?}");
}
