//! Who is told how a pass goes: readiness in `serve`, a line on stderr in `kura bootstrap`, a recording in tests.

use crate::core::mesh::reach::RowEnd;
use crate::core::mesh::readiness::Readiness;

/// Is told how passes go. Calls come from many tasks and must not block.
pub trait Progress: Send + Sync + std::fmt::Debug {
    /// A pass over a peer begins.
    fn started(&self, peer: &str);
    /// All tombstones of the peer are applied.
    fn tombstones_applied(&self, peer: &str);
    /// The pass has so many rows in all, as far as known now.
    fn total(&self, peer: &str, rows: u64);
    /// Rows were settled, bytes arrived.
    fn advanced(&self, peer: &str, rows: u64, bytes: u64);
    /// A listed row ended.
    fn row_ended(&self, peer: &str, _end: RowEnd) {
        self.advanced(peer, 1, 0);
    }
    /// Listed rows of a page ended.
    fn rows_ended(&self, peer: &str, ends: &[RowEnd]) {
        ends.iter().for_each(|end| self.row_ended(peer, *end));
    }
    /// The pass ended: `None` clean, or what went wrong.
    fn finished(&self, peer: &str, error: Option<&str>);
}

impl Progress for Readiness {
    fn started(&self, peer: &str) {
        self.update(|machine, now| machine.pass_started(peer, now));
    }

    fn tombstones_applied(&self, peer: &str) {
        self.update(|machine, now| machine.tombstones_applied(peer, now));
    }

    fn total(&self, peer: &str, rows: u64) {
        self.update(|machine, _| machine.set_total(peer, rows));
    }

    fn advanced(&self, peer: &str, rows: u64, bytes: u64) {
        self.update(|machine, now| machine.advanced(peer, rows, bytes, now));
    }

    fn row_ended(&self, peer: &str, end: RowEnd) {
        self.update(|machine, now| machine.row_ended(peer, end, now));
    }

    fn rows_ended(&self, peer: &str, ends: &[RowEnd]) {
        self.update(|machine, now| ends.iter().for_each(|end| machine.row_ended(peer, *end, now)));
    }

    fn finished(&self, peer: &str, error: Option<&str>) {
        self.update(|machine, _| machine.pass_finished(peer, error.map(str::to_owned)));
    }
}

/// Tells nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn started(&self, _: &str) {}
    fn tombstones_applied(&self, _: &str) {}
    fn total(&self, _: &str, _: u64) {}
    fn advanced(&self, _: &str, _: u64, _: u64) {}
    fn finished(&self, _: &str, _: Option<&str>) {}
}

/// Writes down every call but bytes.
#[cfg(test)]
#[derive(Debug, Default)]
pub struct RecordedProgress(pub std::sync::Mutex<Vec<String>>);

#[cfg(test)]
impl RecordedProgress {
    fn note(&self, call: String) {
        self.0.lock().unwrap().push(call);
    }
}

#[cfg(test)]
impl Progress for RecordedProgress {
    fn started(&self, peer: &str) {
        self.note(format!("started {peer}"));
    }

    fn tombstones_applied(&self, peer: &str) {
        self.note(format!("tombstones {peer}"));
    }

    fn total(&self, peer: &str, rows: u64) {
        self.note(format!("total {peer} {rows}"));
    }

    fn advanced(&self, peer: &str, rows: u64, _: u64) {
        if rows > 0 {
            self.note(format!("rows {peer} {rows}"));
        }
    }

    fn finished(&self, peer: &str, error: Option<&str>) {
        self.note(format!("finished {peer} {}", error.unwrap_or("clean")));
    }
}
