//! What this node knows of one artifact, for `kura doctor artifact` on another one.
//!
//! Invariant: nothing is changed and no body is opened, so that asking about a bad body does not withdraw it.

use axum::extract::{Path, RawQuery, State};
use axum::response::Response;
use http::StatusCode;

use super::context::InternalContext;
use super::query::Query;
use super::reply::{Refused, answer, json};
use super::router::Shared;
use crate::core::base::ids::ArtifactId;

/// `GET /_internal/explain/{id}?namespace=`.
pub(super) async fn get(State(context): Shared, Path(id): Path<String>, RawQuery(query): RawQuery) -> Response {
    answer(explained(&context, &id, &Query::parse(query.as_deref())).await)
}

async fn explained(context: &InternalContext, id: &str, query: &Query) -> Result<Response, Refused> {
    let id: ArtifactId = id.parse().map_err(|_| Refused::bad_request("the id must be 64 lower-case hex digits"))?;
    let namespace = query.text("namespace").map(str::to_owned);
    let mut told = context.store.call(move |store| store.explain(&id, namespace.as_deref())).await?;
    // A path of this machine says nothing to another one.
    if let Some(body) = &mut told.body {
        body.path = None;
    }
    Ok(json(StatusCode::OK, &told))
}
