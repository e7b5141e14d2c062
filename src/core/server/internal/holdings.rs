//! What this node holds, for comparing it with another: artifacts of a range of ids.

use axum::extract::{RawQuery, State};
use axum::response::Response;
use http::StatusCode;

use super::context::InternalContext;
use super::query::Query;
use super::reply::{Refused, answer, json};
use super::router::Shared;
use crate::core::base::ids::ArtifactId;
use crate::core::mesh::holdings::{HOLDINGS_ROWS_MAX, Holding, HoldingsPage, RANGE_DIGITS};
use crate::core::store::walk::ManifestPageRequest;

/// `GET /_internal/holdings`.
pub(super) async fn holdings(State(context): Shared, RawQuery(raw): RawQuery) -> Response {
    answer(page(&context, &Query::parse(raw.as_deref())).await)
}

async fn page(context: &InternalContext, query: &Query) -> Result<Response, Refused> {
    let request = ManifestPageRequest {
        after: query.parsed::<ArtifactId>("after")?,
        prefix: prefix(query)?,
        rows_max: query.parsed_or("limit", HOLDINGS_ROWS_MAX)?.clamp(1, HOLDINGS_ROWS_MAX),
        producers: &[],
    };
    let page = context.store.call(move |store| store.manifest_page(&request)).await?;
    let tenant_id = &context.config.tenant_id;
    let rows = page.records.iter().map(|record| Holding::of(record, tenant_id)).collect();
    Ok(json(StatusCode::OK, &HoldingsPage { rows, next_after: page.next_after }))
}

/// The digits that ids begin with: enough of them that an answer stays small.
pub(super) fn prefix(query: &Query) -> Result<String, Refused> {
    let prefix = query.filled("prefix").unwrap_or_default();
    let is_hex = prefix.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if is_hex && (1..=RANGE_DIGITS).contains(&prefix.len()) {
        Ok(prefix.to_owned())
    } else {
        Err(Refused::bad_request(format!("prefix must be 1 to {RANGE_DIGITS} lower-case hex digits")))
    }
}
