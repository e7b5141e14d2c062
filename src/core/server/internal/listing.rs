//! The seed era's listings: manifests, digest and tombstones.
//!
//! Invariant: a page is bounded by rows and by bytes, far below what a peer takes; the row that would pass the bound
//! begins the next page.

use axum::extract::{RawQuery, State};
use axum::response::Response;
use http::StatusCode;

use super::query::Query;
use super::reply::{Refused, answer, json};
use super::router::Shared;
use crate::core::base::ids::ArtifactId;
use crate::core::mesh::wire::{
    DIGEST_PREFIX_LEN, DigestReply, SEED_PRODUCERS, SeedManifest, SeedManifestPage, SeedTombstonePage,
};
use crate::core::store::walk::{ManifestPage, ManifestPageRequest};

/// Rows in a page when the peer does not say.
const PAGE_ROWS_DEFAULT: usize = 256;

/// Most rows in a page, whatever the peer asks.
pub(super) const PAGE_ROWS_MAX: usize = 4096;

/// Bytes of manifests in a page; a single row is far smaller.
const PAGE_BYTES_MAX: usize = 8 << 20;

/// Longest prefix of a digest: more would only list single artifacts.
const DIGEST_PREFIX_LEN_MAX: usize = 8;

fn rows(query: &Query) -> Result<usize, Refused> {
    match query.parsed_or::<u64>("limit", PAGE_ROWS_DEFAULT as u64)? {
        0 => Err(Refused::bad_request("limit must be greater than 0")),
        rows => Ok(usize::try_from(rows).unwrap_or(usize::MAX).min(PAGE_ROWS_MAX)),
    }
}

/// `GET /_internal/bootstrap/manifests`.
pub(super) async fn manifests(State(context): Shared, RawQuery(raw): RawQuery) -> Response {
    let query = Query::parse(raw.as_deref());
    let page = async {
        let request = ManifestPageRequest {
            after: query.parsed::<ArtifactId>("after")?,
            prefix: prefix(&query)?,
            rows_max: rows(&query)?,
            producers: &SEED_PRODUCERS,
        };
        let page = context.store.call(move |store| store.manifest_page(&request)).await?;
        Ok(json(StatusCode::OK, &bounded(page, &context.config.tenant_id)))
    };
    answer(page.await)
}

fn prefix(query: &Query) -> Result<String, Refused> {
    let prefix = query.filled("prefix").unwrap_or_default();
    let is_hex = prefix.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if is_hex && prefix.len() <= ArtifactId::LEN * 2 {
        Ok(prefix.to_owned())
    } else {
        Err(Refused::bad_request("prefix must be lower-case hex digits"))
    }
}

/// As many rows as fit, and the cursor behind the last of them if any are left.
fn bounded(page: ManifestPage, tenant_id: &str) -> SeedManifestPage {
    let total = page.records.len();
    let mut bytes = 0;
    let mut manifests: Vec<SeedManifest> = Vec::with_capacity(total);
    for record in &page.records {
        let manifest = SeedManifest::of(record, tenant_id);
        bytes += serde_json::to_vec(&manifest).map_or(0, |json| json.len());
        if bytes > PAGE_BYTES_MAX && !manifests.is_empty() {
            break;
        }
        manifests.push(manifest);
    }
    let cut = manifests.len() < total;
    let last = manifests.last().map(|manifest| manifest.artifact_id.clone());
    let next_after = if cut { last } else { page.next_after.map(|id| id.to_string()) };
    SeedManifestPage { manifests, next_after }
}

/// `GET /_internal/bootstrap/digest`.
pub(super) async fn digest(State(context): Shared, RawQuery(raw): RawQuery) -> Response {
    let query = Query::parse(raw.as_deref());
    let reply = async {
        let prefix_len = query.parsed_or("prefix_len", DIGEST_PREFIX_LEN)?;
        if !(1..=DIGEST_PREFIX_LEN_MAX).contains(&prefix_len) {
            return Err(Refused::bad_request("prefix_len must be 1 to 8"));
        }
        let buckets = context.store.call(move |store| store.digest_v1(prefix_len, &SEED_PRODUCERS)).await?;
        Ok(json(StatusCode::OK, &DigestReply { prefix_len, buckets }))
    };
    answer(reply.await)
}

/// `GET /_internal/bootstrap/namespace_tombstones`.
pub(super) async fn tombstones(State(context): Shared, RawQuery(raw): RawQuery) -> Response {
    let query = Query::parse(raw.as_deref());
    let reply = async {
        let rows_max = rows(&query)?;
        let after = query.filled("after").map(str::to_owned);
        let page = context.store.call(move |store| store.tombstone_page(after.as_deref(), rows_max)).await?;
        let tombstones = page.tombstones.into_iter().map(Into::into).collect();
        Ok(json(StatusCode::OK, &SeedTombstonePage { tombstones, next_after: page.next_after }))
    };
    answer(reply.await)
}
