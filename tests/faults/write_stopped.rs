//! A running node whose index has no room left for its own log: writes stop, and come back without a restart.

use std::time::{Duration, Instant};

use kura::core::base::ids::{Epoch, Seq, StoreId};
use kura::core::config::{self, Inputs, Machine, Variables};
use kura::core::server::node::Seams;
use kura::core::server::startup;
use kura::core::store::cursor::Cursor;

use crate::support::bodies::SeededBody;
use crate::support::http::Client;
use crate::volume::{Kind, Volume, fill};

/// What the keeper takes is a second or two; past this the test fails rather than hangs.
const PATIENCE: Duration = Duration::from_secs(60);

fn takes_writes_again(kind: Kind) {
    let folder = tempfile::tempdir().expect("making a folder");
    let data_dir = folder.path().join("data");
    std::fs::create_dir(&data_dir).expect("making the mount point");
    let _volume = Volume::mount(kind, &data_dir);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let flags = [("data_dir", data_dir.display().to_string()), ("port", "0".into()), ("internal_port", "0".into())];
    let machine = Machine::of_this_process();
    let inputs = Inputs { flags: flags.to_vec(), variables: Variables::default(), file: None, machine };
    let config = config::resolve(&inputs).expect("the defaults are valid").config;
    let running = runtime.block_on(async { startup::start(config, Seams::system()).await }).expect("the node starts");
    let client = Client::local(running.addresses().expect("bound").public.port());
    let body = SeededBody::new(1, 300_000).into_vec();
    let put = |key: &str| client.put(&format!("/api/metro/cache/{key}"), &body).expect("a PUT").status;
    let get = |key: &str| client.get(&format!("/api/metro/cache/{key}")).expect("a GET");
    assert_eq!(put("before"), 200);

    let tmp_dir = data_dir.join("tmp");
    fill(&tmp_dir);
    // Rows beside the committer meet no check of space: they use up what RocksDB's log has in reserve.
    let cursor = Cursor { store_id: StoreId([1; 16]), epoch: Epoch([1; 8]), followed: Seq(1), walk: None };
    let store = running.node.store.current().expect("a store");
    let failed = (0..200_000).find_map(|n| store.save_cursor(&format!("{n:0800}"), Some(&cursor)).err());
    println!("{kind:?}: {failed:?}");
    assert!(store.stats().write_stopped.is_some(), "the log has an end");
    drop(store);
    assert_ne!(put("after"), 200);
    let before = get("before");
    // What fills the volume may have cost it its place.
    let is_answered = before.status == 404 || (before.status == 200 && before.bytes().expect("a body") == body);
    assert!(is_answered, "reads go on");
    for area in ["uploads", "parts", "bootstrap"] {
        std::fs::remove_dir_all(tmp_dir.join(area)).expect("freeing space");
        std::fs::create_dir(tmp_dir.join(area)).expect("making the area again");
    }
    let freed = Instant::now();
    while put("after") != 200 {
        let stopped = running.node.store.current().and_then(|store| store.stats().write_stopped);
        assert!(freed.elapsed() < PATIENCE, "still refused: {stopped:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
    println!("{kind:?}: took a write {:?} after space was freed", freed.elapsed());
    assert!(get("after").bytes().expect("a body") == body, "other bytes");
    runtime.block_on(running.stop());
}

#[test]
fn a_node_whose_log_met_a_full_ext4_takes_writes_again_without_a_restart() {
    takes_writes_again(Kind::Ext4);
}

#[test]
fn a_node_whose_log_met_a_full_xfs_takes_writes_again_without_a_restart() {
    takes_writes_again(Kind::Xfs);
}
