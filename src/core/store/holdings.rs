//! Digests of narrow ranges of ids, for comparing two nodes.
//!
//! How it works: live artifacts of every producer are counted by looking through the manifests of a range, which the
//! digest in memory ([`super::set_digest`]) has shown to differ.

use super::error::StoreError;
use super::keys::Table;
use super::record::Record;
use super::set_digest::{SetBucket, stands_for};
use super::state::{Core, corrupt};
use super::walk::{LiveFilter, ManifestPageRequest, first_key};
use crate::core::base::ids::ArtifactId;

/// Manifests looked through for one answer: a sixteenth of a store of many millions, and a second of one thread.
const SCANNED_ROWS_MAX: usize = 1 << 20;

impl Core {
    /// The digests of the ranges of this many digits within the ids that begin with `prefix`; empty ones are left out.
    pub(crate) fn deep_digest(&self, prefix: &str, prefix_len: usize) -> Result<Vec<(String, SetBucket)>, StoreError> {
        let mut buckets: Vec<(String, SetBucket)> = Vec::new();
        self.scan(prefix, |id, record| {
            let text = id.to_string();
            let range = text.get(..prefix_len).unwrap_or(&text);
            if buckets.last().is_none_or(|(last, _)| last != range) {
                buckets.push((range.to_owned(), SetBucket::default()));
            }
            if let Some((_, bucket)) = buckets.last_mut() {
                *bucket = bucket.plus(SetBucket { count: 1, sum: stands_for(id, record.version()) });
            }
        })?;
        Ok(buckets)
    }

    fn scan(&self, prefix: &str, mut each: impl FnMut(&ArtifactId, &Record)) -> Result<(), StoreError> {
        let view = self.index.view();
        let mut filter = LiveFilter::new(&view, self.options.clock.now_ms());
        let range = ManifestPageRequest { after: None, prefix: prefix.to_owned(), rows_max: 0, producers: &[] };
        for row in view.rows(Table::Manifests, &first_key(&range), None)?.take(SCANNED_ROWS_MAX) {
            let (key, value) = row?;
            let id = ArtifactId::from_slice(&key).ok_or_else(|| corrupt("manifests", "a key is no id"))?;
            if !id.to_string().starts_with(prefix) {
                break;
            }
            if let Some(record) = filter.live(&id, &value, &[])? {
                each(&id, &record);
            }
        }
        Ok(())
    }
}
