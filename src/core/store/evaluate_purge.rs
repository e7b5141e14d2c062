//! Emptying a deleted namespace, a bounded piece at a time.

use super::error::StoreError;
use super::evaluate::{Evaluation, Outcome, Verdict};
use super::keys::{LogRow, META_PURGE_PREFIX, Table, last_seq, namespace_key, namespace_prefix, number_key, purge_key};
use super::record::Record;
use super::state::{Core, corrupt, is_deleted};
use super::tagged::Row;
use crate::core::base::ids::{ArtifactId, Seq};

/// Rows a purge removes at a time, so that it never holds up the puts behind it.
pub(crate) const PURGE_ROWS_MAX: usize = 512;

impl<'a> Evaluation<'a> {
    pub(super) fn purge(&mut self, namespace: &str, after: Seq) -> Result<Verdict, StoreError> {
        let tombstone = self.tombstone(namespace)?;
        let covers = self.tombstone_row(namespace)?.map_or(0, |row| row.number(2));
        let began = if after == Seq(0) { covers } else { self.purge_row(namespace)?.number(2) };
        let mut doomed = Vec::new();
        let mut position = after;
        let mut looked_at = 0;
        for seq in self.namespace_seqs(namespace, after)? {
            let seq = seq?;
            looked_at += 1;
            position = seq;
            if let Some((id, record)) = self.record_at(seq)?
                && is_deleted(&record, tombstone)
            {
                doomed.push((id, record));
            }
            if looked_at == PURGE_ROWS_MAX {
                break;
            }
        }
        self.load_extents(&doomed.iter().map(|(_, record)| record).collect::<Vec<_>>())?;
        for (id, record) in doomed {
            self.remove_rows(&id, &record);
            self.retire_body(&record, false);
        }
        let next = (looked_at == PURGE_ROWS_MAX).then_some(position);
        if next.is_none() && began == covers {
            self.batch.delete(Table::Meta, &purge_key(namespace));
        } else if after == Seq(0) {
            // A delete that comes while this goes on also takes rows that were passed already: it keeps its mark.
            let row = self.purge_row(namespace)?.with_number(2, covers);
            self.batch.put(Table::Meta, &purge_key(namespace), &row.encode());
        }
        Ok(Verdict { outcome: Outcome::Purged(next), file: None })
    }

    fn purge_row(&self, namespace: &str) -> Result<Row, StoreError> {
        let bytes = self.core.index.get(Table::Meta, &purge_key(namespace))?;
        bytes.map_or(Ok(Row::default()), |bytes| Row::decode(&bytes)).map_err(|error| corrupt("meta", error))
    }

    fn namespace_seqs(
        &self,
        namespace: &str,
        after: Seq,
    ) -> Result<impl Iterator<Item = Result<Seq, StoreError>> + use<'a>, StoreError> {
        let prefix = namespace_prefix(namespace);
        let from = namespace_key(namespace, Seq(after.0.saturating_add(1)));
        let rows = self.core.index.rows(Table::ByNamespace, &from)?;
        Ok(rows.take_while(move |row| row.as_ref().map_or(true, |(key, _)| key.starts_with(&prefix))).map(|row| {
            row.and_then(|(key, _)| last_seq(&key).ok_or_else(|| corrupt("by_namespace", "a key is short")))
        }))
    }

    /// The manifest whose current row in the log this is.
    pub(super) fn record_at(&self, seq: Seq) -> Result<Option<(ArtifactId, Record)>, StoreError> {
        let Some(bytes) = self.core.index.get(Table::Log, &number_key(seq.0))? else { return Ok(None) };
        let LogRow::Put { id, .. } = LogRow::decode(&bytes).map_err(|reason| corrupt("log", reason))? else {
            return Ok(None);
        };
        Ok(self.manifest(&id)?.filter(|record| record.seq == seq).map(|record| (id, record)))
    }
}

/// Namespaces whose purge was under way when the store was last open.
pub(crate) fn purges_under_way(core: &Core) -> Result<Vec<String>, StoreError> {
    let mut namespaces = Vec::new();
    for row in core.index.rows(Table::Meta, META_PURGE_PREFIX)? {
        let (key, _) = row?;
        let Some(namespace) = key.strip_prefix(META_PURGE_PREFIX) else { break };
        namespaces.push(String::from_utf8_lossy(namespace).into_owned());
    }
    Ok(namespaces)
}
