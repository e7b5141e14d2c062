//! Many bodies at once, written as a table file that the index then takes in as it is.
//!
//! Why: a body that goes through a batch is copied into the log, into a memtable and into a table file, and written twice.
//! In a table file of its own it is copied and written once.
//!
//! How it works: the rows, in the order of their keys, go into a file beside the index's own; it is synced, then taken in
//! under a new name, which is synced too. Whoever refers to the bodies writes that after this returned.
//!
//! Failure: what fails leaves nothing behind but a file under a temporary name, which the next open removes; the bodies
//! can still go through a batch. A crash after the file was taken in and before anything refers to its bodies leaves a
//! table of dead bodies, which an open after an unclean stop looks for.

use std::sync::atomic::Ordering;

use rocksdb::{ColumnFamily, IngestExternalFileOptions, Options, SstFileWriter};

use super::error::StoreError;
use super::index::{Index, write_error};
use super::keys::{Table, number_key};
use crate::core::base::ids::BodyNo;

/// Names of files on their way in; behind it the number of their first body, which is used once.
const PREFIX: &str = "ingest-";

impl Index {
    /// Takes in bodies in ascending order of their numbers, none of which is in the index, nor any between them. They are
    /// durable when this returns.
    pub(crate) fn ingest_bodies(&self, bodies: &[(BodyNo, bytes::Bytes)]) -> Result<(), StoreError> {
        let Some((first, _)) = bodies.first() else { return Ok(()) };
        // A volume that cannot be measured is no reason not to try.
        let _ = self.room.ensure();
        let path = self.path.join(format!("{PREFIX}{first}"));
        let family = self.family(Table::Bodies)?;
        let taken_in = write_table(&self.ingested, &path, bodies).and_then(|()| {
            self.flush_loose_bodies(family)?;
            let mut options = IngestExternalFileOptions::default();
            options.set_move_files(true);
            // Nothing between these numbers is in a memtable; if it were, a batch would be the better way.
            options.set_allow_blocking_flush(false);
            self.db.ingest_external_file_cf_opts(family, &options, vec![&path])
        });
        taken_in.map_err(|error| {
            let _ = std::fs::remove_file(&path);
            write_error(&self.path, self.disk.as_ref(), &error)
        })
    }

    /// A memtable with bodies from before and from after a table would become one that overlaps it, and such tables cannot
    /// be moved on without being written again.
    fn flush_loose_bodies(&self, family: &ColumnFamily) -> Result<(), rocksdb::Error> {
        if !self.has_loose_bodies.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        let flushed = self.db.flush_cf(family);
        self.has_loose_bodies.fetch_or(flushed.is_err(), Ordering::Relaxed);
        flushed
    }

    /// Removes what an earlier process left on its way in.
    pub(crate) fn remove_unfinished(path: &std::path::Path) {
        let Ok(entries) = std::fs::read_dir(path) else { return };
        for entry in
            entries.flatten().filter(|entry| entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()))
        {
            if let Err(error) = std::fs::remove_file(entry.path()) {
                tracing::warn!(%error, path = %entry.path().display(), "unfinished_table_not_removed");
            }
        }
    }
}

fn write_table(
    options: &Options,
    path: &std::path::Path,
    bodies: &[(BodyNo, bytes::Bytes)],
) -> Result<(), rocksdb::Error> {
    let mut table = SstFileWriter::create(options);
    table.open(path)?;
    for (body_no, body) in bodies {
        table.put(number_key(body_no.0), body)?;
    }
    table.finish()
}
