//! Levels, capacity and decisions, and whole volumes played through with one node, a neighbour, and two nodes.

use super::*;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Needs of the index on a volume, as the store derives them.
fn needs(total_bytes: u64) -> IndexNeeds {
    let wal_bytes = (total_bytes / 32).clamp(MIB, 128 * MIB);
    IndexNeeds { wal_bytes, metadata_bytes: 2 * wal_bytes }
}

fn space(total_bytes: u64, available_bytes: u64) -> VolumeSpace {
    let free_bytes = available_bytes;
    VolumeSpace { total_bytes, free_bytes, available_bytes, block_bytes: 4096, ..VolumeSpace::default() }
}

fn measured(total: u64, free: u64, charged: u64) -> Measured {
    let ballast_bytes = ballast_bytes(total, &needs(total));
    Measured { space: space(total, free), charged_bytes: charged, ballast_bytes, wanted_bytes: 0 }
}

#[test]
fn levels_and_ballast_are_ordered_and_a_small_part_of_any_volume() {
    for total in [16 * MIB, 64 * MIB, GIB, 50 * GIB, 1000 * GIB, 100_000 * GIB] {
        let needs = needs(total);
        let levels = Levels::of_bytes(total, &needs);
        assert!(levels.target > levels.pause_below && levels.pause_below > levels.press_below, "{levels:?}");
        assert!(levels.press_below > levels.refuse_below && levels.refuse_below >= needs.metadata_bytes);
        let kept = levels.target + ballast_bytes(total, &needs);
        assert!(kept <= total / 3, "{kept} of {total}");
        assert!(ballast_bytes(total, &needs) >= total.min(2 * GIB) / 100, "{total}");
    }
    assert_eq!(ballast_bytes(64 * MIB, &needs(64 * MIB)), 4 * MIB);
    assert_eq!(ballast_bytes(50 * GIB, &needs(50 * GIB)), 50 * GIB / 100, "a hundredth");
    assert_eq!(ballast_bytes(16 * GIB, &needs(16 * GIB)), 272 * MIB, "the index's logs twice, and some");
    assert_eq!(ballast_bytes(10_000 * GIB, &needs(10_000 * GIB)), GIB);
    assert_eq!(Levels::of_inodes(0), Levels { target: 0, pause_below: 0, press_below: 0, refuse_below: 0 });
}

#[test]
fn capacity_is_the_smallest_of_setting_share_and_what_is_free() {
    let total = 100 * GIB;
    let of = |setting, free, charged| capacity(setting, &measured(total, free, charged), &needs(total));
    let empty = of(None, 94 * GIB, 0);
    assert_eq!((empty.bound, empty.bytes), (Bound::FreeSpace, 92 * GIB));
    assert_eq!(of(Some(20 * GIB), 94 * GIB, 0), Capacity { bytes: 20 * GIB, bound: Bound::Setting });
    assert_eq!(of(Some(200 * GIB), 94 * GIB, 0), empty, "a setting does not make the volume larger");
    assert_eq!(of(None, 44 * GIB, 50 * GIB), empty, "what is kept is room as well");
    let shared = of(None, 19 * GIB, 50 * GIB);
    assert_eq!(shared, Capacity { bytes: 67 * GIB, bound: Bound::FreeSpace }, "30 GiB of others shrink it");
    assert_eq!(of(None, 0, GIB), Capacity::default(), "nothing is left of it once others have taken all");
    let quota = capacity(None, &measured(10 * GIB, 10 * GIB, 0), &needs(10 * GIB));
    assert!(quota.bytes < 10 * GIB, "{quota:?}: a quota is a smaller volume");
    let huge = capacity(None, &measured(1000 * GIB, 1000 * GIB, 0), &needs(1000 * GIB));
    assert_eq!(huge.bound, Bound::VolumeShare);
}

#[test]
fn ballast_that_is_out_is_not_free_and_its_return_changes_nothing() {
    let total = 50 * GIB;
    let ballast = ballast_bytes(total, &needs(total));
    let with = measured(total, 10 * GIB, 20 * GIB);
    let without = Measured { ballast_bytes: 0, ..measured(total, 10 * GIB + ballast, 20 * GIB) };
    assert_eq!(capacity(None, &with, &needs(total)), capacity(None, &without, &needs(total)));
    let (mut one, mut other) = (SpaceController::new(None, needs(total)), SpaceController::new(None, needs(total)));
    let (one, other) = (one.look(&with), other.look(&without));
    assert!(!one.restore_ballast && other.restore_ballast);
    assert_eq!(Decision { restore_ballast: false, ..other }, one);
}

#[test]
fn stages_come_in_order_and_each_is_left_one_level_higher() {
    let total = 64 * MIB;
    let levels = Levels::of_bytes(total, &needs(total));
    let mut controller = SpaceController::new(None, needs(total));
    let mut at = |free| controller.look(&measured(total, free, 30 * MIB)).stage;
    assert_eq!(at(levels.target), Stage::Normal);
    assert_eq!(at(levels.pause_below), Stage::Normal);
    assert_eq!(at(levels.pause_below - 1), Stage::Paused);
    assert_eq!(at(levels.pause_below), Stage::Paused);
    assert_eq!(at(levels.press_below - 1), Stage::Pressed);
    assert_eq!(at(levels.press_below), Stage::Pressed);
    assert_eq!(at(levels.refuse_below - 1), Stage::Refusing);
    assert_eq!(at(levels.refuse_below), Stage::Refusing);
    assert_eq!(at(levels.press_below), Stage::Pressed);
    assert_eq!(at(levels.pause_below), Stage::Paused);
    assert_eq!(at(levels.target), Stage::Normal);
    assert_eq!(at(0), Stage::Refusing);
    assert_eq!(at(levels.target), Stage::Normal, "it need not pass through the others");
}

#[test]
fn the_ballast_goes_when_metadata_needs_it_and_comes_back_when_the_target_is_met() {
    let total = 64 * MIB;
    let mut controller = SpaceController::new(None, needs(total));
    assert!(!controller.look(&measured(total, 2 * MIB, 30 * MIB)).release_ballast);
    let empty = controller.look(&measured(total, 0, 30 * MIB));
    assert!(empty.release_ballast && empty.under_pressure && empty.evict_bytes > 0);
    let out = |free| Measured { ballast_bytes: 0, ..measured(total, free, 30 * MIB) };
    let released = controller.look(&out(4 * MIB));
    assert_eq!((released.stage, released.room_bytes), (Stage::Refusing, 0), "what it left is not for bodies");
    assert!(!controller.look(&out(11 * MIB)).restore_ballast);
    assert!(controller.look(&out(12 * MIB)).restore_ballast);
}

#[test]
fn a_volume_out_of_inodes_evicts_under_pressure_until_there_are_some() {
    let total = 64 * MIB;
    let with = |free_inodes| {
        let mut measured = measured(total, 30 * MIB, 20 * MIB);
        (measured.space.total_inodes, measured.space.free_inodes) = (1000, free_inodes);
        measured
    };
    let mut controller = SpaceController::new(None, needs(total));
    let quiet = controller.look(&with(64));
    assert_eq!((quiet.stage, quiet.evict_bytes), (Stage::Normal, 0));
    let out = controller.look(&with(0));
    assert_eq!((out.stage, out.evict_bytes, out.under_pressure), (Stage::Refusing, 64 * 4096, true));
    assert_eq!(controller.look(&with(64)).stage, Stage::Normal);
}

#[test]
fn room_is_made_for_a_large_body_unless_nothing_would_make_it() {
    let total = 64 * MIB;
    let mut controller = SpaceController::new(None, needs(total));
    let wanting = |wanted| Measured { wanted_bytes: wanted, ..measured(total, 10 * MIB, 40 * MIB) };
    assert_eq!(controller.look(&wanting(6 * MIB)).evict_bytes, 0, "it fits");
    assert_eq!(controller.look(&wanting(20 * MIB)).evict_bytes, 14 * MIB);
    assert_eq!(controller.look(&wanting(60 * MIB)).evict_bytes, 0, "it is larger than all there is");
}

/// The index frees the bodies inside it when it drops their table file, which takes it a while.
#[test]
fn what_several_evictions_are_still_to_free_is_not_evicted_again() {
    let total = 64 * MIB;
    let mut controller = SpaceController::new(None, needs(total));
    let (mut charged, mut evicted) = (40 * MIB, 0);
    for look in 0..u64::from(FREEING_LOOKS) {
        // A neighbour takes a little more before each of the first looks, and nothing comes free yet.
        let free = (4 * MIB).saturating_sub(look.min(8) * 128 * 1024);
        let seen = measured(total, free, charged);
        let decision = controller.look(&seen);
        controller.note_evicted(decision.evict_bytes);
        (charged, evicted) = (charged - decision.evict_bytes, evicted + decision.evict_bytes);
    }
    let needed = Levels::of_bytes(total, &needs(total)).target - 3 * MIB;
    assert!(evicted >= needed / 2 && evicted < needed + 3 * MIB, "{} KiB for {} KiB", evicted >> 10, needed >> 10);
    for _ in 0..=FREEING_LOOKS {
        let seen = measured(total, 3 * MIB, charged);
        evicted = controller.look(&seen).evict_bytes;
    }
    assert!(evicted > 0, "what never came free is not waited for without end");
}

#[test]
fn what_is_written_where_an_eviction_freed_does_not_hold_the_next_one_up() {
    let total = 64 * MIB;
    let mut controller = SpaceController::new(None, needs(total));
    let (mut free, mut charged, mut refused) = (8 * MIB, 40 * MIB, 0);
    for _ in 0..200 {
        let decision = controller.look(&measured(total, free, charged));
        controller.note_evicted(decision.evict_bytes);
        (free, charged) = (free + decision.evict_bytes, charged - decision.evict_bytes);
        let written = decision.room_bytes.min(MIB);
        refused += u32::from(written < MIB);
        (free, charged) = (free - written, charged + written);
    }
    assert!(refused < 5 && charged > 30 * MIB, "{refused} refused, {} MiB kept", charged / MIB);
}

#[test]
fn what_the_ballast_gives_is_not_taken_for_what_an_eviction_frees() {
    let total = 64 * MIB;
    let mut controller = SpaceController::new(None, needs(total));
    let first = controller.look(&measured(total, 2 * MIB, 40 * MIB));
    assert!(first.evict_bytes > MIB && first.freeing_bytes == 0);
    controller.note_evicted(first.evict_bytes);
    let given = ballast_bytes(total, &needs(total));
    let out = Measured { ballast_bytes: 0, ..measured(total, 2 * MIB + given, 40 * MIB - first.evict_bytes) };
    assert_eq!(controller.look(&out).freeing_bytes, first.evict_bytes);
}

/// A volume with nodes on it that do what their controllers decide, at once and exactly.
struct World {
    total: u64,
    foreign: u64,
    nodes: Vec<(SpaceController, u64)>,
    lowest_free: u64,
}

impl World {
    fn new(total: u64, nodes: usize) -> Self {
        let nodes = (0..nodes).map(|_| (SpaceController::new(None, needs(total)), 0)).collect();
        Self { total, foreign: 0, nodes, lowest_free: total }
    }

    fn free(&self) -> u64 {
        let ballast = ballast_bytes(self.total, &needs(self.total)) * self.nodes.len() as u64;
        let held: u64 = self.nodes.iter().map(|(_, charged)| charged).sum();
        self.total.saturating_sub(ballast + held + self.foreign)
    }

    fn write(&mut self, node: usize, bytes: u64) {
        self.nodes[node].1 += bytes;
        self.lowest_free = self.lowest_free.min(self.free());
    }

    fn look(&mut self, node: usize) -> Decision {
        let seen = measured(self.total, self.free(), self.nodes[node].1);
        let decision = self.nodes[node].0.look(&seen);
        self.nodes[node].1 -= decision.evict_bytes;
        decision
    }
}

#[test]
fn a_node_that_is_written_to_for_ever_keeps_the_target_free_and_most_of_the_volume() {
    let mut world = World::new(GIB, 1);
    for _ in 0..5000 {
        world.write(0, MIB);
        assert_eq!(world.look(0).stage, Stage::Normal);
    }
    let levels = Levels::of_bytes(GIB, &needs(GIB));
    assert!(world.lowest_free >= levels.target - 2 * MIB, "{} of {}", world.lowest_free, levels.target);
    assert!(world.nodes[0].1 > GIB * 3 / 4, "{}", world.nodes[0].1);
}

#[test]
fn a_foreign_file_shrinks_the_budget_and_it_comes_back_when_it_goes() {
    let mut world = World::new(GIB, 1);
    world.write(0, 700 * MIB);
    let before = world.look(0).capacity;
    world.foreign = 150 * MIB;
    let waits = (0..FOREIGN_PATIENCE_LOOKS).all(|_| world.look(0).evict_bytes == 0);
    assert!(waits, "it may be gone in a moment");
    let pressed = world.look(0);
    assert!(pressed.evict_bytes > 0 && pressed.capacity.bytes < before.bytes, "{pressed:?}");
    assert_eq!(world.look(0).evict_bytes, 0, "once is enough");
    world.foreign = 0;
    assert_eq!(world.look(0).capacity, before);

    world.foreign = GIB;
    let full = world.look(0);
    assert!(full.stage == Stage::Refusing && full.evict_bytes > 0, "on a full volume nothing waits: {full:?}");
}

#[test]
fn of_two_nodes_on_one_volume_neither_meets_the_wall_nor_empties_the_other() {
    let levels = Levels::of_bytes(GIB, &needs(GIB));
    let mut world = World::new(GIB, 2);
    for _ in 0..400 {
        for node in 0..2 {
            world.write(node, MIB);
            assert!(world.look(node).stage < Stage::Pressed);
        }
    }
    let idle = world.nodes[0].1;
    for turn in 0..5000 {
        world.write(1, MIB);
        // They do not look at the same time, nor equally often.
        for node in [turn % 2, 1] {
            assert!(world.look(node).stage < Stage::Refusing);
        }
    }
    assert!(world.lowest_free > levels.press_below, "{}", world.lowest_free);
    assert!(world.nodes[0].1 >= idle - 4 * MIB, "the idle one had {idle} and has {}", world.nodes[0].1);
    assert!(world.nodes[1].1 > 100 * MIB, "{}", world.nodes[1].1);
}

#[test]
fn two_nodes_that_are_written_to_alike_come_to_equal_parts_whatever_they_began_with() {
    let mut world = World::new(GIB, 2);
    world.write(0, 600 * MIB);
    for turn in 0..20_000 {
        world.write(turn % 2, MIB);
        // The one may look far more often than the other.
        world.look(0);
        if turn % 7 == 0 {
            world.look(1);
        }
    }
    let (one, other) = (world.nodes[0].1, world.nodes[1].1);
    assert!(one > 150 * MIB && other > 150 * MIB, "{one} and {other}");
}
