//! Room on pretended volumes: what a look sets, evicts, releases and restores, and what it does when it sees nothing.

use super::*;
use crate::core::base::disk::{FaultDisk, RealDisk};
use crate::core::data_dir::capacity::{Bound, Levels};
use crate::core::store::committer::CommitOutcome;
use crate::core::store::error::StoreError;
use crate::core::store::store_tests::{Bench, applied, body, delete, local, outcome};

const MIB: u64 = 1 << 20;
const TOTAL: u64 = 64 * MIB;

/// A store on a pretended volume of 64 MiB with 40 artifacts of 100 KiB, and who keeps its room.
struct World {
    bench: Bench,
    disk: Arc<FaultDisk>,
    store: Store,
    keeper: RoomKeeper,
}

impl World {
    fn new(setting: Option<u64>) -> Self {
        let disk = Arc::new(FaultDisk::new(Arc::new(RealDisk)));
        let bench = Bench::on(Arc::clone(&disk) as Arc<dyn Disk>);
        disk.set_space(Some(space(50 * MIB)));
        let store = bench.open();
        for n in 0..40 {
            bench.clock.advance(std::time::Duration::from_millis(10));
            applied(&store, local("ios", &format!("k{n}"), &vec![n; 100 << 10]));
        }
        let keeper = RoomKeeper::new(&bench.layout(), Arc::clone(&disk) as Arc<dyn Disk>, setting).unwrap();
        Self { bench, disk, store, keeper }
    }

    fn look(&mut self, free_bytes: u64) -> Look {
        self.disk.set_space(Some(space(free_bytes)));
        self.keeper.look(Some(&self.store), 0).unwrap()
    }

    fn ballast_bytes(&self) -> u64 {
        self.keeper.ballast.bytes()
    }
}

fn space(available_bytes: u64) -> VolumeSpace {
    let free_bytes = available_bytes;
    VolumeSpace { total_bytes: TOTAL, free_bytes, available_bytes, block_bytes: 4096, ..VolumeSpace::default() }
}

fn levels() -> Levels {
    Levels::of_bytes(TOTAL, &IndexSizes::for_volume(TOTAL).needs())
}

#[test]
fn with_room_there_is_a_capacity_and_a_ballast_and_nothing_goes() {
    let mut world = World::new(None);
    let look = world.look(50 * MIB);
    assert_eq!((look.evicted, look.status.stage, look.status.bound), (0, Stage::Normal, Bound::FreeSpace));
    assert_eq!(world.store.stats().capacity_bytes, Some(look.status.capacity_bytes));
    assert_eq!((look.status.ballast_bytes, world.ballast_bytes()), (4 * MIB, 4 * MIB));
}

#[test]
fn when_too_little_is_free_the_oldest_go_until_enough_is_and_no_more() {
    let mut world = World::new(None);
    world.look(50 * MIB);
    for n in 0..10 {
        applied(&world.store, local("ios", &format!("new{n}"), &[1; 100 << 10]));
    }
    let (before, free) = (world.store.stats().charged_bytes, levels().target - MIB / 2);
    assert!(world.look(free).evicted > 0);
    assert_eq!(world.look(free).evicted, 0, "what was evicted may take a moment to be free");
    let mut freed = 0;
    for _ in 0..20 {
        freed = before - world.store.stats().charged_bytes;
        world.look(free + freed);
    }
    assert_eq!(freed, before - world.store.stats().charged_bytes, "it comes to an end");
    assert!((MIB / 2..2 * MIB).contains(&freed), "{freed}");
    assert!(body(&world.store, "ios", "k0").is_none() && body(&world.store, "ios", "k39").is_some());
}

#[test]
fn a_capacity_that_is_set_is_kept_to() {
    let mut world = World::new(Some(2 * MIB));
    let look = world.look(50 * MIB);
    assert_eq!((look.status.bound, world.store.stats().capacity_bytes), (Bound::Setting, Some(2 * MIB)));
    let charged = world.store.stats().charged_bytes;
    assert!(charged <= 2 * MIB && charged > MIB, "{charged}");
}

#[test]
fn at_no_byte_free_the_ballast_goes_for_a_delete_and_comes_back_with_the_room() {
    let mut world = World::new(None);
    world.look(50 * MIB);
    assert_eq!(world.ballast_bytes(), 4 * MIB);
    world.disk.set_space(Some(space(0)));
    assert!(matches!(outcome(&world.store, delete("x", None)), CommitOutcome::Deleted { .. }));
    assert_eq!(world.ballast_bytes(), 0, "before the delete needs it");
    world.disk.set_space(Some(space(7 * MIB)));
    let refused = world.store.submit(local("ios", "b", b"x")).wait();
    assert!(matches!(refused, Err(StoreError::StorageFull { .. })), "what it left is not for bodies: {refused:?}");
    let mut look = world.look(4 * MIB);
    assert_eq!((look.status.stage, look.room.bytes), (Stage::Refusing, 0));
    assert!(look.evicted > 0);
    look = world.look(levels().target + 4 * MIB);
    assert_eq!((look.status.stage, world.ballast_bytes()), (Stage::Normal, 4 * MIB));
    world.disk.set_space(Some(space(7 * MIB)));
    applied(&world.store, local("ios", "b", b"x"));
}

#[test]
fn the_index_gets_the_ballast_only_when_it_could_not_open_otherwise() {
    let mut world = World::new(None);
    world.look(50 * MIB);
    let (layout, disk) = (world.bench.layout(), Arc::clone(&world.disk) as Arc<dyn Disk>);
    drop(world.store);
    let needed = bytes_to_open(&layout);
    assert!(needed > INDEX_OPEN_BYTES + MIB, "the log holds many of the artifacts: {needed}");
    world.disk.set_space(Some(space(needed)));
    assert_eq!(make_room_to_open(&layout, &disk).unwrap(), 0);
    world.disk.set_space(Some(space(needed - 1)));
    assert_eq!(make_room_to_open(&layout, &disk).unwrap(), 4 * MIB);
    assert_eq!(make_room_to_open(&layout, &disk).unwrap(), 0);
}

#[test]
fn a_volume_that_cannot_be_measured_is_an_error_and_not_a_full_one() {
    let mut world = World::new(None);
    world.disk.fail_space(Some(io::ErrorKind::Other));
    assert!(world.keeper.look(Some(&world.store), 0).is_err());
    let refused = world.store.submit(local("ios", "b", b"x")).wait();
    assert!(matches!(refused, Err(StoreError::Io { action: "measure", .. })), "{refused:?}");
    assert!(matches!(outcome(&world.store, delete("x", None)), CommitOutcome::Deleted { .. }));
    world.disk.fail_space(None);
    applied(&world.store, local("ios", "b", b"x"));
}
