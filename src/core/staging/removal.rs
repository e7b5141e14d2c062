//! Removes staged files, a few hundred thousand of them in lanes.
//!
//! How it works: a [`Remover`] keeps the folder of the last file open (and locked where there may be owners), because most
//! files lie side by side. Unlinking takes the lock of a folder in the kernel and nothing that two folders share for long,
//! so many files go in two lanes, each with the folders that are its own.
//!
//! Invariants: a file is removed by one lane only. The caller's thread alone hears what became of a file.
//!
//! Failure: a lane that cannot be started leaves its share to the caller's thread.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, SyncSender};

use super::inventory::{Ownership, Removal, StagedFolder, StagedPath, StagingFolders, lock_file};

/// Fewer than this are gone before a second thread is of use.
const LANES_FROM_FILES: usize = 4096;

/// More gain nothing: the journal of the filesystem is one.
const LANES: usize = 2;

/// Outcomes handed over at a time, and how many of those may wait.
const OUTCOMES_AT_A_TIME: usize = 256;
/// See [`OUTCOMES_AT_A_TIME`].
const OUTCOMES_WAITING_MAX: usize = 16;

/// Hears what became of the file of this number.
pub type Told<'told> = dyn FnMut(usize, io::Result<Removal>) + 'told;

/// An open folder with those above it; the locks of the upper ones are held as long as the lowest is used.
#[derive(Debug)]
pub(super) struct OpenFolder {
    /// From the tmp dir down.
    pub(super) handles: Vec<File>,
}

/// Removes files one after the other.
#[derive(Debug)]
pub(super) struct Remover<'tree> {
    tree: &'tree StagingFolders,
    ownership: Ownership,
    last: Option<(Arc<StagedFolder>, OpenFolder)>,
}

impl<'tree> Remover<'tree> {
    pub(super) fn new(tree: &'tree StagingFolders, ownership: Ownership) -> Self {
        Self { tree, ownership, last: None }
    }

    /// Removes one file, under its lock if there may be owners.
    pub(super) fn remove(&mut self, path: &StagedPath) -> io::Result<Removal> {
        let is_last =
            |(folder, _): &(Arc<StagedFolder>, _)| Arc::ptr_eq(folder, &path.folder) || *folder == path.folder;
        if !self.last.as_ref().is_some_and(is_last) {
            self.last = None;
            self.last = match self.tree.open_folder(&path.folder, self.ownership) {
                Ok(Some(open)) => Some((Arc::clone(&path.folder), open)),
                Ok(None) => return Ok(Removal::InUse),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Removal::Done),
                Err(error) => return Err(error),
            };
        }
        let Some(folder) = self.last.as_ref().and_then(|(_, open)| open.handles.last()) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let disk = self.tree.disk();
        let removed = match self.ownership {
            Ownership::Nobody => disk.unlink_at(folder, &path.name),
            Ownership::ByLock => match lock_file(folder, &path.name) {
                // The lock is held while the name goes: whoever made the file just now finds it without a name.
                Ok(Some(_lock)) => disk.unlink_at(folder, &path.name),
                Ok(None) => return Ok(Removal::InUse),
                Err(error) => Err(error),
            },
        };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(Removal::Done),
        }
    }
}

/// Removes all of these, each once, in their order within a folder.
pub(super) fn remove_all(tree: &StagingFolders, paths: &[&StagedPath], ownership: Ownership, told: &mut Told<'_>) {
    if paths.len() < LANES_FROM_FILES {
        let mut remover = Remover::new(tree, ownership);
        paths.iter().enumerate().for_each(|(number, path)| told(number, remover.remove(path)));
        return;
    }
    let lanes = share_out(paths);
    std::thread::scope(|scope| {
        let (sender, receiver) = mpsc::sync_channel(OUTCOMES_WAITING_MAX);
        let mut left = Vec::new();
        for lane in &lanes {
            let sender = sender.clone();
            let run = move || drive(Remover::new(tree, ownership), paths, lane, &sender);
            if std::thread::Builder::new().name("reclaim".to_owned()).spawn_scoped(scope, run).is_err() {
                left.extend_from_slice(lane);
            }
        }
        drop(sender);
        hear(&receiver, told);
        let mut remover = Remover::new(tree, ownership);
        for (number, path) in left.into_iter().filter_map(|number| Some((number, *paths.get(number)?))) {
            told(number, remover.remove(path));
        }
    });
}

type Outcomes = Vec<(usize, io::Result<Removal>)>;

fn drive(mut remover: Remover<'_>, paths: &[&StagedPath], numbers: &[usize], sender: &SyncSender<Outcomes>) {
    for some in numbers.chunks(OUTCOMES_AT_A_TIME) {
        let outcomes = some.iter().filter_map(|number| Some((*number, remover.remove(paths.get(*number)?))));
        // The receiver lives until all lanes are done.
        let _ = sender.send(outcomes.collect());
    }
}

fn hear(receiver: &Receiver<Outcomes>, told: &mut Told<'_>) {
    for outcomes in receiver {
        outcomes.into_iter().for_each(|(number, outcome)| told(number, outcome));
    }
}

/// The numbers of the files for each lane: whole folders, the fullest first, each to the lane that has the least.
fn share_out(paths: &[&StagedPath]) -> [Vec<usize>; LANES] {
    let mut of_folder: HashMap<&StagedFolder, Vec<usize>> = HashMap::new();
    for (number, path) in paths.iter().enumerate() {
        of_folder.entry(path.folder.as_ref()).or_default().push(number);
    }
    let mut folders: Vec<Vec<usize>> = of_folder.into_values().collect();
    folders.sort_unstable_by_key(|numbers| (std::cmp::Reverse(numbers.len()), numbers.first().copied()));
    let mut lanes: [Vec<usize>; LANES] = std::array::from_fn(|_| Vec::new());
    for numbers in folders {
        if let Some(lane) = lanes.iter_mut().min_by_key(|lane| lane.len()) {
            lane.extend(numbers);
        }
    }
    lanes
}

#[cfg(test)]
#[path = "removal_tests.rs"]
mod tests;
