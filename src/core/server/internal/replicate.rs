//! What seed-era peers push: artifacts and namespace deletes. kura peers pull by the feed.
//!
//! Invariant: a version that is not wanted is answered with 204 before its body is read, as the sender expects.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::response::Response;
use http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt;

use super::context::InternalContext;
use super::query::Query;
use super::reply::{Refused, answer, empty};
use super::router::Shared;
use crate::core::base::ids::StoreId;
use crate::core::base::limits::{BODY_BYTES_MAX, NO_PROGRESS_TIMEOUT};
use crate::core::bootstrap::metrics::{ApplyOutcome, ApplySource, ItemType};
use crate::core::mesh::wire::{SEED_PRODUCERS, check_name, is_action, keyed_sha256, unhashed_record};
use crate::core::staging::area::AreaKind;
use crate::core::staging::body_writer::{BodySpec, BodyWriter, StagedBody};
use crate::core::staging::budget::BudgetClass;
use crate::core::store::Wants;
use crate::core::store::committer::{Carried, CommitOutcome, Operation, Put, PutOrigin};
use crate::core::store::record::{ArtifactKey, Kind};

/// An artifact that a peer sends.
#[derive(Debug)]
struct Pushed {
    name: ArtifactKey,
    content_type: String,
    version_ms: u64,
    length: Option<u64>,
    length_max: u64,
}

impl Pushed {
    fn parse(context: &InternalContext, query: &Query, headers: &HeaderMap) -> Result<Self, Refused> {
        let required = |name: &str| {
            query.filled(name).map(str::to_owned).ok_or_else(|| Refused::bad_request(format!("{name} is missing")))
        };
        let producer = required("producer")?;
        if !SEED_PRODUCERS.contains(&producer.as_str()) {
            return Err(Refused::bad_request(format!("unknown producer {producer:?}")));
        }
        let namespace = named_namespace(query)?;
        let name = ArtifactKey { producer, namespace, key: required("key")? };
        check_name(&name).map_err(Refused::bad_request)?;
        let inline: bool = query.parsed_or("inline", false)?;
        let length_max = if inline { context.config.max_keyvalue_bytes } else { BODY_BYTES_MAX };
        let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        if length.is_some_and(|length| length > length_max) {
            return Err(Refused::too_large(length_max));
        }
        let content_type = required("content_type")?;
        Ok(Self { name, content_type, version_ms: query.parsed_or("version_ms", 0)?, length, length_max })
    }

    fn spec(&self) -> BodySpec {
        BodySpec {
            area: AreaKind::Uploads,
            class: BudgetClass::Client,
            length: self.length,
            length_max: self.length_max,
            sha256: keyed_sha256(&self.name).is_some(),
        }
    }

    fn put(self, body: StagedBody) -> Put {
        let kind = if is_action(&self.name) { Kind::Action } else { Kind::Blob };
        let origin = PutOrigin::Replicated {
            version_ms: self.version_ms,
            logical: 0,
            created_at_ms: self.version_ms,
            origin: StoreId::default(),
        };
        let (name, content_type) = (self.name, self.content_type);
        Put { name, kind, content_type, attributes: BTreeMap::new(), carried: Carried::default(), body, origin }
    }
}

/// The namespace must be named, and may be empty.
fn named_namespace(query: &Query) -> Result<String, Refused> {
    let missing = || Refused::bad_request("namespace_id is missing");
    query.text("namespace_id").map(str::to_owned).ok_or_else(missing)
}

/// `PUT /_internal/replicate/artifact`.
pub(super) async fn artifact(
    State(context): Shared,
    RawQuery(raw): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let query = Query::parse(raw.as_deref());
    let taken = async {
        let pushed = Pushed::parse(&context, &query, &headers)?;
        take_artifact(&context, pushed, body).await
    };
    let outcome = taken.await;
    let counted = outcome.as_ref().map_or(ApplyOutcome::Error, |outcome| *outcome);
    context.metrics.applied(ApplySource::Replication, ItemType::Artifact, counted);
    answer(outcome.map(|_| empty(StatusCode::NO_CONTENT)))
}

async fn take_artifact(context: &InternalContext, pushed: Pushed, body: Body) -> Result<ApplyOutcome, Refused> {
    if pushed.version_ms > 0 {
        let (name, version_ms) = (pushed.name.clone(), pushed.version_ms);
        let record = unhashed_record(name, String::new(), pushed.length.unwrap_or(0), version_ms, version_ms);
        match context.store.call(move |store| store.wants(&record)).await? {
            Wants::Fetch | Wants::Adopt => {}
            Wants::Tombstoned => return Ok(ApplyOutcome::IgnoredTombstone),
            Wants::AlreadyHere | Wants::Evicted | Wants::BeyondCapacity => return Ok(ApplyOutcome::IgnoredStale),
            Wants::ClockSkew => {
                tracing::warn!(version_ms, "replicated_artifact_ahead_of_clock");
                return Ok(ApplyOutcome::IgnoredStale);
            }
        }
    }
    let writer = context.staging.begin(pushed.spec()).await?;
    let staged = receive(writer, body).await?;
    let keyed = keyed_sha256(&pushed.name);
    if keyed.is_some() && keyed != staged.sha256 {
        return Err(Refused::bad_request("the body does not match the hash its key names"));
    }
    let put = Operation::Put(Box::new(pushed.put(staged)));
    Ok(match context.store.commit(put).await? {
        CommitOutcome::Applied(_) => ApplyOutcome::Applied,
        CommitOutcome::Tombstoned => ApplyOutcome::IgnoredTombstone,
        _ => ApplyOutcome::IgnoredStale,
    })
}

async fn receive(mut writer: BodyWriter, mut body: Body) -> Result<StagedBody, Refused> {
    loop {
        let frame = tokio::time::timeout(NO_PROGRESS_TIMEOUT, body.frame()).await;
        let frame = frame.map_err(|_| Refused::bad_request("the body stopped arriving"))?;
        match frame {
            None => return Ok(writer.finish().await?),
            Some(Err(error)) => return Err(Refused::bad_request(format!("the body broke off: {error}"))),
            Some(Ok(frame)) => {
                if let Ok(chunk) = frame.into_data() {
                    writer.write(chunk).await?;
                }
            }
        }
    }
}

async fn delete_namespace(context: &InternalContext, query: &Query) -> Result<ApplyOutcome, Refused> {
    let namespace = named_namespace(query)?;
    let name = ArtifactKey { producer: String::new(), namespace, key: String::new() };
    check_name(&name).map_err(Refused::bad_request)?;
    let version_ms = query.parsed::<u64>("version_ms")?;
    let operation = Operation::DeleteNamespace { namespace: name.namespace, version_ms };
    Ok(match context.store.commit(operation).await? {
        CommitOutcome::Deleted { .. } => ApplyOutcome::Applied,
        _ => ApplyOutcome::IgnoredOlder,
    })
}

/// `DELETE /_internal/replicate/namespace`.
pub(super) async fn namespace(State(context): Shared, RawQuery(raw): RawQuery) -> Response {
    let outcome = delete_namespace(&context, &Query::parse(raw.as_deref())).await;
    let counted = outcome.as_ref().map_or(ApplyOutcome::Error, |outcome| *outcome);
    context.metrics.applied(ApplySource::Replication, ItemType::NamespaceDelete, counted);
    answer(outcome.map(|_| empty(StatusCode::NO_CONTENT)))
}
