//! What a node does to its data dir, each with what there is before.

use anyhow::Result;
use kura::core::data_dir::ballast::Ballast;
use kura::core::store::EvictGoal;

use crate::step_node::{NOW_MS, Name, StepNode};

/// Something a node does.
pub struct Scenario {
    pub prepare: fn(&mut StepNode),
    pub act: fn(&mut StepNode) -> Result<()>,
    /// Steps it has at the least; with fewer the test would look at nothing.
    pub steps_min: u64,
}

pub fn name(namespace: &'static str, key: &str) -> Name {
    (namespace, key.to_owned())
}

pub fn small(fill: u8) -> Vec<u8> {
    vec![fill; 300]
}

pub fn file(fill: u8) -> Vec<u8> {
    vec![fill; 5000]
}

/// Long enough to be synced before it reaches the committer.
fn large(fill: u8) -> Vec<u8> {
    vec![fill; (1 << 20) + 5000]
}

/// A node with a few artifacts of each kind, one overwritten, one namespace deleted and one written again after that.
fn with_artifacts(node: &mut StepNode) {
    for n in 0..6_u8 {
        node.clock.advance(std::time::Duration::from_millis(10));
        node.put(&name("ios", &format!("small-{n}")), &small(n)).expect("a put");
        node.put(&name("ios", &format!("file-{n}")), &file(n)).expect("a put");
    }
    node.put(&name("gone", "small"), &small(7)).expect("a put");
    node.put(&name("gone", "file"), &file(7)).expect("a put");
    node.delete("gone").expect("a delete");
    node.put(&name("gone", "again"), &file(8)).expect("a put");
}

pub const PUT_SMALL: Scenario = Scenario {
    prepare: |node| node.put(&name("ios", "old"), &small(1)).expect("a put"),
    act: |node| node.put(&name("ios", "new"), &small(2)),
    steps_min: 2,
};

/// The first file of an extent, which gets its folder with it.
pub const PUT_FILE: Scenario = Scenario {
    prepare: |node| node.put(&name("ios", "old"), &small(1)).expect("a put"),
    act: |node| node.put(&name("ios", "new"), &file(2)),
    steps_min: 10,
};

/// The first write after a start raises the mark below which numbers are used.
pub const PUT_IN_A_NEW_EXTENT: Scenario = Scenario {
    prepare: |node| {
        with_artifacts(node);
        node.restart();
    },
    act: |node| {
        node.put(&name("ios", "new"), &file(9))?;
        node.put(&name("ios", "new small"), &small(9))
    },
    steps_min: 14,
};

pub const PUT_LARGE: Scenario =
    Scenario { prepare: |_| {}, act: |node| node.put(&name("ios", "new"), &large(2)), steps_min: 14 };

/// Many files are synced together.
pub const APPLY: Scenario = Scenario {
    prepare: with_artifacts,
    act: |node| {
        let mut bodies: Vec<_> = (0..5_u8).map(|n| (name("ios", &format!("peer-file-{n}")), file(n))).collect();
        bodies.extend((0..3_u8).map(|n| (name("ios", &format!("peer-small-{n}")), small(n))));
        bodies.push((name("ios", "file-0"), file(99)));
        bodies.push((name("ios", "small-0"), small(99)));
        let version_ms = NOW_MS + 1000;
        node.apply(&bodies, version_ms)?;
        node.adopt(&name("ios", "file-1"), version_ms)
    },
    steps_min: 30,
};

pub const OVERWRITE: Scenario = Scenario {
    prepare: with_artifacts,
    act: |node| {
        node.put(&name("ios", "file-0"), &file(50))?;
        node.put(&name("ios", "file-1"), &small(51))?;
        node.put(&name("ios", "small-0"), &file(52))?;
        node.put(&name("ios", "small-1"), &small(53))
    },
    steps_min: 20,
};

pub const DELETE: Scenario = Scenario {
    prepare: with_artifacts,
    act: |node| {
        node.delete("ios")?;
        node.put(&name("ios", "file-0"), &file(60))?;
        node.delete("never written")
    },
    steps_min: 20,
};

pub const EVICT: Scenario = Scenario {
    prepare: with_artifacts,
    act: |node| node.evict(EvictGoal { bytes: 20_000, under_pressure: false }).map(drop),
    steps_min: 6,
};

/// Files first, then a whole extent, of which something moves to the head.
pub const EVICT_UNDER_PRESSURE: Scenario = Scenario {
    prepare: |node| {
        for n in 0..8_u8 {
            node.put(&name("old", &format!("small-{n}")), &small(n)).expect("a put");
        }
        node.put(&name("old", "file"), &file(1)).expect("a put");
        node.restart();
        node.clock.advance(std::time::Duration::from_secs(60));
        node.put(&name("new", "file"), &file(2)).expect("a put");
        node.put(&name("new", "small"), &small(2)).expect("a put");
        node.store().note_read(&node.id(&name("old", "small-3")));
    },
    act: |node| node.evict(EvictGoal { bytes: 10_000, under_pressure: true }).map(drop),
    steps_min: 8,
};

pub const MULTIPART: Scenario = Scenario {
    prepare: |node| node.put(&name("ios", "module"), &file(1)).expect("a put"),
    act: |node| {
        node.put_in_parts(&name("ios", "module"), &[file(2), file(3), file(4)])?;
        node.leave_upload()
    },
    steps_min: 40,
};

pub const BALLAST: Scenario = Scenario {
    prepare: with_artifacts,
    act: |node| {
        let ballast = Ballast::new(&node.layout(), node.disk());
        ballast.restore(1 << 20)?;
        ballast.restore(2 << 20)?;
        ballast.restore(1 << 20)?;
        ballast.release()?;
        ballast.restore(1 << 20)?;
        Ok(())
    },
    steps_min: 8,
};

/// What older versions and other filesystems leave: names without an owner.
fn litter(node: &StepNode) {
    let tmp = node.layout().tmp_dir().to_path_buf();
    std::fs::create_dir_all(tmp.join("parts/0190-left")).expect("a folder");
    for path in ["uploads/upload-1", "bootstrap/bootstrap-2", "parts/0190-left/1", "parts/0190-left/2"] {
        std::fs::write(tmp.join(path), file(1)).expect("a file");
    }
}

pub const RECLAIM: Scenario = Scenario {
    prepare: |node| {
        with_artifacts(node);
        litter(node);
    },
    act: |node| node.reclaim().map(drop),
    steps_min: 5,
};

/// The first start of all.
pub const FIRST_START: Scenario = Scenario {
    prepare: |node| {
        node.kill();
        for entry in std::fs::read_dir(&node.root).expect("listing") {
            let path = entry.expect("an entry").path();
            let removed = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
            removed.expect("emptying");
        }
    },
    act: StepNode::start,
    steps_min: 20,
};

/// A start after a kill that left litter in staging and a body file without a manifest.
pub const START_AFTER_A_KILL: Scenario = Scenario {
    prepare: |node| {
        with_artifacts(node);
        litter(node);
        leave_an_orphan(node);
        node.kill();
    },
    act: StepNode::start,
    steps_min: 10,
};

/// A start that finds nothing to remove but a body file without a manifest.
pub const START_WITH_AN_ORPHAN: Scenario = Scenario {
    prepare: |node| {
        with_artifacts(node);
        leave_an_orphan(node);
        node.kill();
    },
    act: StepNode::start,
    steps_min: 8,
};

fn leave_an_orphan(node: &StepNode) {
    std::fs::write(node.layout().bodies().join("0/0000000000000fff"), file(1)).expect("an orphan");
}

/// A start that makes a damaged index anew.
pub const REBUILD: Scenario = Scenario {
    prepare: |node| {
        with_artifacts(node);
        let inline: Vec<Name> = node.oracle().values.keys().filter(|name| name.1.contains("small")).cloned().collect();
        inline.iter().for_each(|name| node.oracle().may(name, None));
        node.kill();
        std::fs::remove_file(node.layout().index().join("CURRENT")).expect("removing CURRENT");
    },
    act: StepNode::start,
    steps_min: 20,
};
