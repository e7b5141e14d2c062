//! Many files in lanes.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::Path;

use super::*;
use crate::core::base::disk::{DiskOperation, FaultDisk, RealDisk};
use crate::core::data_dir::layout::{Layout, ensure_directories};
use crate::core::staging::area::AreaKind;
use crate::core::staging::reclaim::{ReclaimPolicy, apply, plan};

#[test]
fn lanes_share_whole_folders_evenly() {
    let folders: Vec<Arc<StagedFolder>> = (0..5)
        .map(|n| Arc::new(StagedFolder { root: 0, kind: AreaKind::Parts, names: vec![OsString::from(n.to_string())] }))
        .collect();
    let paths: Vec<StagedPath> = [400, 100, 300, 100, 100]
        .iter()
        .zip(&folders)
        .flat_map(|(count, folder)| {
            (0..*count).map(|n| StagedPath { folder: Arc::clone(folder), name: OsString::from(n.to_string()) })
        })
        .collect();
    let paths: Vec<&StagedPath> = paths.iter().collect();
    let lanes = share_out(&paths);
    assert_eq!(lanes.iter().map(Vec::len).collect::<Vec<_>>(), [500, 500]);
    let mut all: Vec<usize> = lanes.concat();
    all.sort_unstable();
    assert!(all.into_iter().eq(0..1000));
    let mut lane_of = BTreeMap::new();
    for (number, lane) in lanes.iter().enumerate().flat_map(|(lane, numbers)| numbers.iter().map(move |n| (*n, lane))) {
        let folder = &paths[number].folder;
        assert_eq!(*lane_of.entry(folder).or_insert(lane), lane, "{folder:?} is in two lanes");
    }
}

/// Enough for lanes, with failures in both of them: all others go, and each file is accounted for once.
#[test]
fn a_removal_in_lanes_tells_of_each_file_once() {
    let root = tempfile::tempdir().unwrap();
    let layout = Layout::with_default_tmp(root.path());
    ensure_directories(&layout, &RealDisk).unwrap();
    let count = LANES_FROM_FILES + 500;
    for number in 0..count {
        let place = ["uploads", "bootstrap", "parts/one", "parts/two"][number % 4];
        let folder = layout.tmp_dir().join(place);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(format!("file-{number}")), [1]).unwrap();
    }
    let disk = Arc::new(FaultDisk::new(Arc::new(RealDisk)));
    disk.set_rule(Some(Box::new(|operation, path: Option<&Path>, _| {
        let is_chosen = path.is_some_and(|path| path.to_string_lossy().ends_with("00"));
        (is_chosen && operation == DiskOperation::Unlink).then(|| io::Error::other("on purpose"))
    })));
    let tree = StagingFolders::new(&layout, Arc::clone(&disk) as Arc<dyn crate::core::base::disk::Disk>);
    let policy = ReclaimPolicy::everything(Ownership::Nobody, 0);
    let failing = (0..count).filter(|number| number.to_string().ends_with("00")).count();
    for (removed, failed) in [(count - failing, failing), (0, failing)] {
        let outcome = apply(&policy, plan(&policy, &tree), &tree, &mut ()).unwrap();
        assert_eq!((outcome.removed().files, outcome.failed.total), (removed as u64, failed as u64));
    }
    disk.set_rule(None);
    let outcome = apply(&policy, plan(&policy, &tree), &tree, &mut ()).unwrap();
    assert_eq!((outcome.removed().files, outcome.failed.total), (failing as u64, 0));
    assert_eq!(fs::read_dir(layout.tmp_dir().join("parts")).unwrap().count(), 0);
}
