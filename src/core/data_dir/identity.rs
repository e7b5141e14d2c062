//! Who a data dir is: one small JSON file, written once and replaced whole.
//!
//! How it works: the file names the magic, the format with the oldest reader that may open it, features, the state of
//! the first initialisation, the store id and the tenant. It is written beside its place, synced, renamed over it, and
//! the folder is synced, so a reader sees the old one or the new one.
//!
//! Invariants: keys this binary does not know are kept and written back; a feature listed as incompatible that this
//! binary does not know refuses the data dir; `compatible` features never do. Nothing here decides by age or size.
//!
//! Failure: a crash while writing leaves `identity.new` behind, which the next write removes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::layout::Layout;
use crate::core::base::disk::Disk;
use crate::core::base::ids::StoreId;

/// The first field of every identity.
const MAGIC: &str = "kura";

/// The format this binary writes.
pub const FORMAT: Format = Format { major: 1, minor: 0, min_reader: 1 };

/// Incompatible features this binary understands; none so far.
const KNOWN_INCOMPATIBLE: [&str; 0] = [];

/// An identity is a few hundred bytes; more than this is not one.
const IDENTITY_BYTES_MAX: u64 = 64 << 10;

/// Names in a data dir that say nothing about whether it is one: what the lock, the run record and the volume leave.
const NEUTRAL_NAMES: [&str; 7] =
    [".kura.writer.lock", "run.json", "tmp", "control.sock", "lost+found", "ballast", "identity.new"];

/// Names of the seed era's layout.
const SEED_ERA_NAMES: [&str; 2] = ["rocksdb", "segments"];

/// Folders of kura's layout that may stand empty before the identity is written.
const FOLDERS_MADE_EARLY: [&str; 3] = ["index", "bodies", "quarantine"];

/// The on-disk format of a data dir.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Format {
    /// Rises when old data must be converted.
    pub major: u32,
    /// Rises when something is added.
    pub minor: u32,
    /// The oldest `major` a binary must write to be able to read this.
    pub min_reader: u32,
}

/// How far the first initialisation got. RocksDB may be created only while it has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InitState {
    /// Nothing was acknowledged yet; the index may be created.
    Initialising,
    /// The index exists; it is never created again.
    Ready,
    /// The index is being made anew from body files; what is there of it means nothing. Binaries that do not know this
    /// state refuse the data dir.
    Rebuilding,
}

/// The identity of one data dir.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The format of everything in the data dir.
    pub format: Format,
    /// Features that older binaries may ignore.
    pub compatible: Vec<String>,
    /// Features that refuse binaries which do not know them.
    pub incompatible: Vec<String>,
    /// How far the first initialisation got.
    pub init_state: InitState,
    /// The data's name.
    pub store_id: StoreId,
    /// Whose artifacts these are; part of every artifact id.
    pub tenant: String,
    /// Allocation unit of the volume at the time of making, in bytes.
    pub block_bytes: u64,
    /// Keys of later versions.
    unknown: Map<String, Value>,
}

/// What a look at a data dir's identity shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdentityState {
    /// The data dir is missing, or empty but for neutral names: a new store may be made here.
    Absent,
    /// This binary can use it.
    Ok(Box<Identity>),
    /// Made by another version or by the seed-era system.
    Incompatible {
        /// What was found.
        reason: String,
    },
    /// There is an identity, or there must have been one, and it cannot be used.
    Corrupt {
        /// What is wrong.
        reason: String,
    },
    /// The folder holds something else: not a kura data dir.
    Foreign {
        /// What was found.
        reason: String,
    },
}

impl Identity {
    /// A new identity, initialising.
    pub fn new(store_id: StoreId, tenant: &str, block_bytes: u64) -> Self {
        Self {
            format: FORMAT,
            compatible: Vec::new(),
            incompatible: Vec::new(),
            init_state: InitState::Initialising,
            store_id,
            tenant: tenant.to_owned(),
            block_bytes,
            unknown: Map::new(),
        }
    }

    /// Reads the identity of a data dir; changes nothing.
    ///
    /// # Errors
    /// What the system says, but for "not found".
    pub fn load(layout: &Layout) -> io::Result<IdentityState> {
        let path = layout.identity();
        match fs::metadata(&path) {
            Ok(found) if found.len() > IDENTITY_BYTES_MAX => {
                Ok(IdentityState::Corrupt { reason: format!("the identity file has {} bytes", found.len()) })
            }
            Ok(_) => Ok(Self::parse(&fs::read(&path)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => without_identity(layout),
            Err(error) => Err(error),
        }
    }

    /// Writes the identity so that a crash leaves the old one or the new one, and durably.
    ///
    /// # Errors
    /// What the disk says; the old identity stands then.
    pub fn store(&self, layout: &Layout, disk: &dyn Disk) -> io::Result<()> {
        let path = layout.identity();
        let fresh = path.with_extension("new");
        match disk.unlink(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let written = self.write_beside(&fresh, disk).and_then(|()| disk.rename(&fresh, &path));
        if let Err(error) = written {
            // The half-written file is removed as well as can be; the next write would remove it too.
            let _ = disk.unlink(&fresh);
            return Err(error);
        }
        disk.sync_dir(layout.data_dir())
    }

    fn write_beside(&self, fresh: &Path, disk: &dyn Disk) -> io::Result<()> {
        let file = disk.create_new(fresh)?;
        disk.write_all_at(&file, &self.to_json(), 0)?;
        disk.sync_data(&file)
    }

    fn to_json(&self) -> Vec<u8> {
        let known = json!({
            "magic": MAGIC,
            "format": self.format,
            "compatible": self.compatible,
            "incompatible": self.incompatible,
            "init_state": self.init_state,
            "store_id": self.store_id,
            "tenant": self.tenant,
            "block_bytes": self.block_bytes,
        });
        let mut object = match known {
            Value::Object(object) => object,
            _ => Map::new(),
        };
        object.extend(self.unknown.clone());
        format!("{:#}\n", Value::Object(object)).into_bytes()
    }

    fn parse(bytes: &[u8]) -> IdentityState {
        let mut object = match serde_json::from_slice::<Value>(bytes) {
            Ok(Value::Object(object)) => object,
            Ok(_) => return corrupt("the identity is not a JSON object"),
            Err(error) => return corrupt(format!("the identity is not JSON: {error}")),
        };
        if object.remove("magic") != Some(json!(MAGIC)) {
            return corrupt("the identity lacks kura's magic");
        }
        match take::<Format>(&mut object, "format") {
            Ok(format) if format.min_reader > FORMAT.major => incompatible_format(format),
            Ok(format) => Self::parse_fields(object, format).unwrap_or_else(corrupt),
            Err(reason) => corrupt(reason),
        }
    }

    fn parse_fields(mut object: Map<String, Value>, format: Format) -> Result<IdentityState, String> {
        let identity = Self {
            format,
            compatible: take(&mut object, "compatible")?,
            incompatible: take(&mut object, "incompatible")?,
            init_state: take(&mut object, "init_state")?,
            store_id: take(&mut object, "store_id")?,
            tenant: take(&mut object, "tenant")?,
            block_bytes: take(&mut object, "block_bytes")?,
            unknown: object,
        };
        Ok(match identity.incompatible.iter().find(|name| !KNOWN_INCOMPATIBLE.contains(&name.as_str())) {
            Some(name) => {
                IdentityState::Incompatible { reason: format!("it uses the feature {name:?}, unknown to this binary") }
            }
            None => IdentityState::Ok(Box::new(identity)),
        })
    }
}

fn take<T: serde::de::DeserializeOwned>(object: &mut Map<String, Value>, key: &str) -> Result<T, String> {
    let value = object.remove(key).ok_or_else(|| format!("the identity lacks {key:?}"))?;
    serde_json::from_value(value).map_err(|error| format!("the identity's {key:?} does not decode: {error}"))
}

fn corrupt(reason: impl Into<String>) -> IdentityState {
    IdentityState::Corrupt { reason: reason.into() }
}

fn incompatible_format(format: Format) -> IdentityState {
    let Format { major, minor, min_reader } = format;
    IdentityState::Incompatible {
        reason: format!(
            "it has format {major}.{minor}, which needs a reader of format {min_reader}; this binary has {}",
            FORMAT.major
        ),
    }
}

/// Judges a folder without an identity by the names in it.
fn without_identity(layout: &Layout) -> io::Result<IdentityState> {
    let entries = match fs::read_dir(layout.data_dir()) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(IdentityState::Absent),
        Err(error) => return Err(error),
    };
    let mut foreign: Option<PathBuf> = None;
    for entry in entries {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        if SEED_ERA_NAMES.contains(&name.as_ref()) {
            return Ok(IdentityState::Incompatible {
                reason: format!("it was made by the seed-era system (it holds {name:?}); point kura at a new data dir"),
            });
        }
        if FOLDERS_MADE_EARLY.contains(&name.as_ref()) {
            if !is_empty_but_for_marker(&path)? {
                return Ok(corrupt(format!("the identity is missing, yet {name:?} holds data")));
            }
        } else if !NEUTRAL_NAMES.contains(&name.as_ref()) && path != layout.tmp_dir() {
            foreign.get_or_insert(path);
        }
    }
    Ok(match foreign {
        Some(path) => IdentityState::Foreign { reason: format!("not a kura data dir: it holds {}", path.display()) },
        None => IdentityState::Absent,
    })
}

fn is_empty_but_for_marker(folder: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(folder)? {
        if entry?.file_name() != ".kura" {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::core::base::disk::{FaultDisk, RealDisk};

    fn layout() -> (tempfile::TempDir, Layout) {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::with_default_tmp(root.path());
        (root, layout)
    }

    fn identity() -> Identity {
        Identity::new(StoreId([7; 16]), "default", 4096)
    }

    #[test]
    fn what_is_stored_is_loaded() {
        let (_root, layout) = layout();
        let mut identity = identity();
        identity.init_state = InitState::Ready;
        identity.store(&layout, &RealDisk).unwrap();
        assert_eq!(Identity::load(&layout).unwrap(), IdentityState::Ok(Box::new(identity)));
    }

    #[test]
    fn keys_of_later_versions_are_written_back() {
        let (_root, layout) = layout();
        identity().store(&layout, &RealDisk).unwrap();
        let mut value: Value = serde_json::from_slice(&fs::read(layout.identity()).unwrap()).unwrap();
        value["later"] = json!({"a": [1, 2]});
        value["format"]["minor"] = json!(9);
        fs::write(layout.identity(), value.to_string()).unwrap();
        let IdentityState::Ok(loaded) = Identity::load(&layout).unwrap() else { panic!("refused") };
        loaded.store(&layout, &RealDisk).unwrap();
        let again: Value = serde_json::from_slice(&fs::read(layout.identity()).unwrap()).unwrap();
        assert_eq!(again, value);
    }

    #[test]
    fn formats_and_features_of_the_future_are_refused_with_the_reason() {
        let (_root, layout) = layout();
        let mut later = identity();
        later.format = Format { major: 3, minor: 1, min_reader: 2 };
        later.store(&layout, &RealDisk).unwrap();
        let state = Identity::load(&layout).unwrap();
        assert!(matches!(state, IdentityState::Incompatible { reason } if reason.contains("3.1")));

        let mut featured = identity();
        featured.incompatible = vec!["packed_bodies".into()];
        featured.store(&layout, &RealDisk).unwrap();
        let state = Identity::load(&layout).unwrap();
        assert!(matches!(state, IdentityState::Incompatible { reason } if reason.contains("packed_bodies")));
    }

    #[test]
    fn a_file_that_is_no_identity_is_corrupt() {
        let (_root, layout) = layout();
        for text in ["", "[]", "{}", "{\"magic\":\"kurz\"}", "{\"magic\":\"kura\",\"format\":1}"] {
            fs::write(layout.identity(), text).unwrap();
            assert!(matches!(Identity::load(&layout).unwrap(), IdentityState::Corrupt { .. }), "{text:?}");
        }
        fs::write(layout.identity(), vec![b' '; 100_000]).unwrap();
        assert!(matches!(Identity::load(&layout).unwrap(), IdentityState::Corrupt { .. }));
    }

    #[test]
    fn an_empty_or_missing_folder_is_absent_and_neutral_names_do_not_count() {
        let (root, layout) = layout();
        assert_eq!(Identity::load(&layout).unwrap(), IdentityState::Absent);
        for name in ["tmp", "lost+found", "index", "bodies", "quarantine"] {
            fs::create_dir(root.path().join(name)).unwrap();
        }
        for name in [".kura.writer.lock", "run.json", "ballast", "bodies/.kura"] {
            fs::write(root.path().join(name), "").unwrap();
        }
        assert_eq!(Identity::load(&layout).unwrap(), IdentityState::Absent);
        let missing = Layout::with_default_tmp(root.path().join("nowhere"));
        assert_eq!(Identity::load(&missing).unwrap(), IdentityState::Absent);
    }

    #[test]
    fn other_peoples_data_the_seed_era_and_a_lost_identity_are_told_apart() {
        let (root, layout) = layout();
        fs::write(root.path().join("photos.zip"), "x").unwrap();
        assert!(matches!(Identity::load(&layout).unwrap(), IdentityState::Foreign { .. }));
        fs::create_dir(root.path().join("segments")).unwrap();
        let state = Identity::load(&layout).unwrap();
        assert!(matches!(state, IdentityState::Incompatible { reason } if reason.contains("seed-era")));
        fs::remove_dir(root.path().join("segments")).unwrap();
        fs::create_dir(root.path().join("index")).unwrap();
        fs::write(root.path().join("index/CURRENT"), "x").unwrap();
        assert!(matches!(Identity::load(&layout).unwrap(), IdentityState::Corrupt { .. }));
    }

    #[test]
    fn a_failed_write_at_any_step_leaves_the_old_identity() {
        let (root, layout) = layout();
        identity().store(&layout, &RealDisk).unwrap();
        let before = fs::read(layout.identity()).unwrap();
        let disk = FaultDisk::new(Arc::new(RealDisk));
        // Unlink of a leftover, create, write, sync and rename; the folder's sync comes after the change.
        for failing in 1..5 {
            disk.set_rule(Some(Box::new(move |_, _, number| {
                (number == failing).then(|| io::ErrorKind::StorageFull.into())
            })));
            let mut changed = identity();
            changed.tenant = "other".into();
            assert!(changed.store(&layout, &disk).is_err(), "operation {failing} was not reached");
            assert_eq!(fs::read(layout.identity()).unwrap(), before);
            assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
        }
    }
}
