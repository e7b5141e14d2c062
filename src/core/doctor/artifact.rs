//! `kura doctor artifact`: one artifact, explained. Where it is, whether its bytes are what they should be, who else has
//! it, and if it is not here, why.
//!
//! How it works: the read-only index tells all it knows of the id ([`Explanation`]), the body is hashed where it lies,
//! staging is searched for a part of it, and the peers are asked what they know. The first fact that decides becomes
//! the [`Verdict`].
//!
//! Invariants: nothing is changed, here or on a peer: a bad body is told and not withdrawn. An index that does not open
//! is an answer of its own; the peers are asked all the same.

use std::ops::ControlFlow;

use serde::Serialize;

use super::artifact_peers::{self, PeerCopy};
use super::check::CheckError;
use super::context::{Context, Mode, Vantage};
use super::run::rfc3339;
use crate::core::base::ids::ArtifactId;
use crate::core::base::units::ByteSize;
use crate::core::staging::area::AreaKind;
use crate::core::staging::partials;
use crate::core::store::explain::{Explanation, NameFacts, State};
use crate::core::store::integrity::{self, HashBodies, VerifyRequest};
use crate::core::store::record::ArtifactKey;
use crate::core::store::{Store, Wants};

/// The schema's name.
pub const SCHEMA: &str = "kura.doctor-artifact/v1";

/// Partials looked at; the ledger allows far fewer at a time.
const PARTIALS_MAX: usize = 10_000;

/// Which artifact is asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// By its id in the mesh.
    Id(ArtifactId),
    /// By its name.
    Name(ArtifactKey),
}

/// What it comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Here, and its bytes are good.
    Here,
    /// Here, and its body is missing or not what it should be.
    BodyBad,
    /// Here, and its body could not be read.
    BodyUnreadable,
    /// Deleted with its namespace.
    Deleted,
    /// Its time is over.
    Expired,
    /// Its manifest does not decode.
    ManifestUnreadable,
    /// Known of, and not here yet.
    Wanted,
    /// Evicted to make room.
    Evicted,
    /// Withdrawn, because its body was bad.
    Withdrawn,
    /// Not here; its namespace was deleted.
    NamespaceDeleted,
    /// Not here; if it was old, it was evicted.
    BelowFloor,
    /// Nothing is known of it here.
    Absent,
    /// The index could not be asked.
    Unknown,
}

/// The bytes of the body, looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BodyLook {
    /// good, bad, unreadable.
    pub status: &'static str,
    /// What is wrong.
    pub detail: Option<String>,
    /// The digest of the bytes, where it is another one.
    pub actual: Option<String>,
}

/// A part of the body in staging.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartialLook {
    /// The file.
    pub path: String,
    /// Bytes of it that are durable.
    pub durable_bytes: u64,
    /// Bytes of the whole body.
    pub size: u64,
}

/// The answer, as `kura.doctor-artifact/v1`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ArtifactReport {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// kura's version.
    pub version: &'static str,
    /// The data dir looked at.
    pub data_dir: Option<String>,
    /// `live` when a running node answered, else `offline`.
    pub vantage: &'static str,
    /// RFC 3339, UTC.
    pub started_at: String,
    /// Which artifact.
    pub artifact_id: ArtifactId,
    /// Its name, as far as anybody asked knows it.
    pub name: Option<NameFacts>,
    /// What it comes to.
    pub verdict: Verdict,
    /// The same for people.
    pub message: String,
    /// What to do, if anything.
    pub next: Option<String>,
    /// Why this node's index could not be asked.
    pub error: Option<String>,
    /// What this node knows.
    pub here: Option<Explanation>,
    /// Its body here.
    pub body: Option<BodyLook>,
    /// A part of its body in staging.
    pub partial: Option<PartialLook>,
    /// What the peers know.
    pub peers: Vec<PeerCopy>,
    /// Why this vantage, for people.
    #[serde(skip)]
    pub vantage_reason: String,
}

/// Looks, and asks the peers.
///
/// # Errors
/// If the settings do not tell the tenant, without which a name has no id.
pub fn explain(context: &Context, subject: &Subject) -> Result<ArtifactReport, CheckError> {
    let config = context.config()?;
    let (id, given) = match subject {
        Subject::Id(id) => (*id, None),
        Subject::Name(name) => (name.artifact_id(&config.tenant_id), Some(NameFacts::from(name))),
    };
    let namespace = given.as_ref().map(|name| name.namespace.as_str());
    let (here, body, error) = match look(context, &id, namespace) {
        Ok((here, body)) => (Some(here), body, None),
        Err(error) => (None, None, Some(error.0)),
    };
    let known = here.as_ref().and_then(|here| here.name.clone()).or(given);
    let mut peers = artifact_peers::ask(context, &id, known.as_ref().map(|name| name.namespace.as_str()));
    // Behind a discovery name this node may be among them.
    peers.retain(|peer| peer.store_id.is_none() || peer.store_id != here.as_ref().map(|here| here.store_id));
    let name = known.or_else(|| peers.iter().find_map(|peer| peer.name.clone()));
    if let (Some(name), Ok(store)) = (&name, context.index()) {
        foresee(context, store, &name.key_of(), &mut peers);
    }
    let verdict = verdict(here.as_ref(), body.as_ref());
    let partial = partial(context, &id);
    let message = message(verdict, here.as_ref(), body.as_ref(), error.as_deref());
    let next = next(context, verdict, &peers);
    Ok(ArtifactReport {
        schema: SCHEMA,
        version: env!("CARGO_PKG_VERSION"),
        data_dir: context.layout.as_ref().map(|layout| layout.data_dir().to_string_lossy().into_owned()),
        vantage: context.vantage.as_str(),
        started_at: rfc3339(context.world.clock.now_ms()),
        artifact_id: id,
        name,
        verdict,
        message,
        next,
        error,
        here,
        body,
        partial,
        peers,
        vantage_reason: context.vantage.reason(),
    })
}

fn look(
    context: &Context,
    id: &ArtifactId,
    namespace: Option<&str>,
) -> Result<(Explanation, Option<BodyLook>), CheckError> {
    if let (Mode::Online, Vantage::Offline(reason)) = (context.asked.mode, &context.vantage) {
        return Err(CheckError(format!("no running node answers: {reason}")));
    }
    let store = context.index()?;
    let (here, body) = looked(store, id, namespace)?;
    if body.as_ref().is_none_or(|body| body.status == "good") || !context.is_held() {
        return Ok((here, body));
    }
    // Beside a writer the body may have been replaced between the two looks.
    let fresh = context.open_index().map_err(|trouble| CheckError(trouble.message))?;
    looked(&fresh, id, namespace)
}

fn looked(
    store: &Store,
    id: &ArtifactId,
    namespace: Option<&str>,
) -> Result<(Explanation, Option<BodyLook>), CheckError> {
    let here = store.explain(id, namespace);
    let here = here.map_err(|error| CheckError::from_error("ask the index", &error))?;
    let body = here.body.as_ref().map(|_| body_look(store, id)).transpose()?;
    Ok((here, body))
}

fn body_look(store: &Store, id: &ArtifactId) -> Result<BodyLook, CheckError> {
    let request = VerifyRequest::of(HashBodies::All, vec![*id]);
    let report = integrity::verify(store, &request, &mut |_| ControlFlow::Continue(()));
    let report = report.map_err(|error| CheckError::from_error("verify the body", &error))?;
    if let Some(bad) = report.missing.first().or(report.corrupt.first()) {
        let actual = bad.actual.map(|actual| actual.to_string());
        return Ok(BodyLook { status: "bad", detail: Some(bad.reason.clone()), actual });
    }
    if let Some(error) = report.unreadable.first() {
        return Ok(BodyLook { status: "unreadable", detail: Some(error.clone()), actual: None });
    }
    Ok(BodyLook { status: "good", detail: None, actual: None })
}

/// What this node would do with what each peer has.
fn foresee(context: &Context, store: &Store, name: &ArtifactKey, peers: &mut [PeerCopy]) {
    if let Vantage::Live(status) = &context.vantage {
        store.set_capacity(status.space.as_ref().map(|space| space.capacity_bytes).filter(|bytes| *bytes > 0));
    }
    for peer in peers {
        let Some(manifest) = &peer.manifest else { continue };
        let would = store.would_take(name, manifest.version(), manifest.size);
        peer.here = would.ok().map(|wants| match wants {
            Wants::Fetch => "fetched",
            Wants::Adopt => "adopted: the same bytes are here",
            Wants::AlreadyHere => "here already, or newer",
            Wants::Tombstoned => "refused: deleted",
            Wants::Evicted => "refused: evicted here",
            Wants::BeyondCapacity => "refused: beyond capacity",
            Wants::ClockSkew => "refused: its clock is too far ahead",
        });
    }
}

fn partial(context: &Context, id: &ArtifactId) -> Option<PartialLook> {
    let folder = context.layout.as_ref()?.tmp_dir().join(AreaKind::Bootstrap.name());
    let (path, header) = partials::look_for(&folder, id, PARTIALS_MAX)?;
    Some(PartialLook {
        path: path.to_string_lossy().into_owned(),
        durable_bytes: header.durable_bytes,
        size: header.identity.size,
    })
}

fn verdict(here: Option<&Explanation>, body: Option<&BodyLook>) -> Verdict {
    let Some(here) = here else { return Verdict::Unknown };
    match (here.state, body.map(|body| body.status)) {
        (State::Held, Some("bad") | None) => Verdict::BodyBad,
        (State::Held, Some("unreadable")) => Verdict::BodyUnreadable,
        (State::Held, Some(_)) => Verdict::Here,
        (State::Deleted, _) => Verdict::Deleted,
        (State::Expired, _) => Verdict::Expired,
        (State::Unreadable, _) => Verdict::ManifestUnreadable,
        (State::Wanted, _) => Verdict::Wanted,
        (State::Evicted, _) => Verdict::Evicted,
        (State::Withdrawn, _) => Verdict::Withdrawn,
        (State::NamespaceDeleted, _) => Verdict::NamespaceDeleted,
        (State::BelowFloor, _) => Verdict::BelowFloor,
        (State::Absent, _) => Verdict::Absent,
        (State::Unknown, _) => Verdict::Unknown,
    }
}

fn message(verdict: Verdict, here: Option<&Explanation>, body: Option<&BodyLook>, error: Option<&str>) -> String {
    let time = |ms: Option<u64>| rfc3339(ms.unwrap_or_default());
    let size = here.and_then(|here| here.manifest.as_ref()).map_or(0, |manifest| manifest.size);
    let wrong = body.and_then(|body| body.detail.clone()).unwrap_or_else(|| "its manifest names no body".to_owned());
    let deleted = time(here.and_then(|here| here.tombstone_version_ms));
    match verdict {
        Verdict::Here => format!("it is here, {}, and its bytes match", ByteSize(size)),
        Verdict::BodyBad => format!("its manifest is here and its body is not good: {wrong}"),
        Verdict::BodyUnreadable => format!("its manifest is here and its body could not be read: {wrong}"),
        Verdict::Deleted => format!("its namespace was deleted up to {deleted}, and it is no newer"),
        Verdict::Expired => {
            let expired = here.and_then(|here| here.manifest.as_ref()?.expires_at_ms);
            format!("its time was over at {}", time(expired))
        }
        Verdict::ManifestUnreadable => {
            "its manifest does not decode: it is a miss until it is written again".to_owned()
        }
        Verdict::Wanted => wanted_words(here),
        Verdict::Evicted => {
            let version = here.and_then(|here| here.stub.as_ref()).map(|stub| stub.version_ms);
            format!("it was evicted to make room; the version of {} and older ones do not come back", time(version))
        }
        Verdict::Withdrawn => "its body was bad and was set aside; a good copy of any peer is taken".to_owned(),
        Verdict::NamespaceDeleted => {
            format!("it is not here; its namespace was deleted up to {deleted}, and nothing of it was written since")
        }
        Verdict::BelowFloor => {
            let floor = time(here.map(|here| here.evicted_floor_ms));
            format!("it is not here; what is no newer than {floor} and not here counts as evicted")
        }
        Verdict::Absent => "it is not here, and nothing here says that it ever was".to_owned(),
        Verdict::Unknown => format!("what this node has of it cannot be told: {}", error.unwrap_or("unknown state")),
    }
}

fn wanted_words(here: Option<&Explanation>) -> String {
    use crate::core::store::wanted::WantedReason;
    let Some(wanted) = here.and_then(|here| here.wanted.as_ref()) else { return "it is wanted".to_owned() };
    let why = match wanted.reason {
        WantedReason::Unavailable => "every known holder says that it has no good copy",
        WantedReason::WaitingForPeer => "a peer that has it does not answer",
        WantedReason::Failed => "fetching it failed",
        WantedReason::BadCopy => "its known holders have only bad copies",
        WantedReason::BeyondCapacity => "it is older than what this full node keeps",
        WantedReason::Withdrawn => "its body here was bad",
        WantedReason::Unknown => "for a reason of a later version",
    };
    format!("it is known and not here yet: {why} ({} tries)", wanted.attempts)
}

fn next(context: &Context, verdict: Verdict, peers: &[PeerCopy]) -> Option<String> {
    let is_offered = peers.iter().any(|peer| peer.here == Some("fetched"));
    let is_live = matches!(context.vantage, Vantage::Live(_));
    match verdict {
        Verdict::BodyBad | Verdict::ManifestUnreadable => Some(
            "nothing by hand: kura serve answers a miss, withdraws a bad body on its first read and fetches it again"
                .to_owned(),
        ),
        Verdict::BodyUnreadable => Some("dmesg --level=err,warn | tail -n 50".to_owned()),
        Verdict::Unknown => Some(context.command("doctor", &["--only", "index"])),
        Verdict::Here | Verdict::Deleted | Verdict::Expired => None,
        _ if is_offered && is_live => Some("a peer has it: this node fetches it when its turn comes".to_owned()),
        _ if is_offered => Some(context.command("bootstrap", &[])),
        Verdict::Wanted => Some(context.command("doctor", &["--only", "bootstrap,peers"])),
        _ => Some("the next write of it brings it back".to_owned()),
    }
}

impl ArtifactReport {
    /// Whether something of this artifact is broken here, or could not be looked at.
    pub fn conclusion(&self) -> super::report::Conclusion {
        use super::report::Conclusion;
        match self.verdict {
            Verdict::BodyBad | Verdict::ManifestUnreadable => Conclusion::Findings,
            Verdict::BodyUnreadable | Verdict::Unknown => Conclusion::Incomplete,
            _ => Conclusion::Clean,
        }
    }
}

#[cfg(test)]
#[path = "artifact_tests.rs"]
mod tests;
