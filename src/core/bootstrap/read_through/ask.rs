//! One read among others: whether it is worth asking the peers, and who of those that wait for one artifact does.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use http::Method;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use super::body::{self, ThroughError};
use super::metrics::ReadThroughMetrics;
use super::peers;
use crate::core::base::ids::ArtifactId;
use crate::core::bootstrap::engine::Engine;
use crate::core::mesh::membership::{Member, Membership};
use crate::core::mesh::readiness::Readiness;
use crate::core::store::error::StoreError;
use crate::core::store::record::{ArtifactKey, Record};
use crate::core::store::unopened::UnopenedStore;
use crate::core::store::wanted::Wanted;

/// Bodies up to this size are taken whole before the first byte is handed out.
pub const BUFFERED_BYTES_MAX: u64 = 1 << 20;

/// Bodies in memory at the same time: together with the bound above 64 MiB.
const BUFFERED_AT_ONCE: usize = 64;

/// Bodies streamed at the same time; each holds a connection to a peer and a buffer.
const STREAMED_AT_ONCE: usize = 64;

/// How long a read waits for one of these places.
pub(super) const PLACE_WAIT: Duration = Duration::from_secs(10);

/// How long a read waits for a pass that is fetching the same artifact, before it asks by itself.
const PASS_WAIT: Duration = Duration::from_secs(1);

/// How a body that is too long to be buffered is handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// As it comes.
    Streamed,
    /// Once it is here whole, for clients to whom a body that breaks off does more harm than one that begins late.
    Whole,
}

/// What came of asking the peers.
pub enum Through {
    /// It is here by now: a pass brought it.
    Here,
    /// It is here by now: a peer gave it.
    Brought,
    /// It came whole.
    Whole(Arc<Record>, Bytes),
    /// It is on its way; the stream ends with an error if it proves bad.
    Stream(Box<Record>, BoxStream<'static, Result<Bytes, ThroughError>>),
    /// No peer that answers has it.
    Miss,
    /// No peer that answers has it, but one that may have it is opening its store.
    Undecided,
}

/// Whether a peer has an artifact that is not here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// One that answers says so.
    Yes,
    /// None that answers does.
    No,
    /// None that answers does, but one that may have it is opening its store.
    Undecided,
}

impl std::fmt::Debug for Through {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Here => "Here",
            Self::Brought => "Brought",
            Self::Whole(..) => "Whole",
            Self::Stream(..) => "Stream",
            Self::Miss => "Miss",
            Self::Undecided => "Undecided",
        })
    }
}

/// What the one who asks tells those who wait.
#[derive(Debug, Clone)]
enum Told {
    Here,
    Whole(Arc<Record>, Bytes),
    /// It is too long to share: each asks for itself.
    Long,
    Miss,
    /// Who still has time asks for itself.
    Undecided,
}

/// An artifact, and whether our own store is open.
type Asked = (ArtifactId, bool);

type Asking = HashMap<Asked, watch::Receiver<Option<Told>>>;

/// Reads through this node to its peers; cheap to clone.
#[derive(Debug, Clone)]
pub struct ReadThrough {
    shared: Arc<Shared>,
}

/// What all reads share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) engine: Engine,
    pub(super) unopened: UnopenedStore,
    pub(super) readiness: Readiness,
    pub(super) membership: Arc<Membership>,
    /// Never marked as seen, so that it tells whether there was a round of discovery at all.
    pub(super) members: watch::Receiver<Arc<Vec<Member>>>,
    pub(super) metrics: ReadThroughMetrics,
    asking: Mutex<Asking>,
    pub(super) buffered: Arc<Semaphore>,
    pub(super) streamed: Arc<Semaphore>,
    pub(super) suspects: peers::Suspects,
    pub(super) openings: peers::Openings,
}

/// One read: of what, and what is known of it.
#[derive(Debug, Clone)]
pub(super) struct Read {
    pub(super) id: ArtifactId,
    pub(super) name: ArtifactKey,
    pub(super) wanted: Option<Wanted>,
    pub(super) delivery: Delivery,
    /// GET, or HEAD for its record alone.
    pub(super) method: Method,
    /// Until when a peer's store that opens is waited for.
    pub(super) until: Instant,
    /// While our own store is not open.
    pub(super) unopened: Option<Unopened>,
}

/// What is known of an artifact while our own store is not open.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unopened {
    /// Up to which version its namespace was deleted here.
    pub(super) deleted_up_to: Option<u64>,
}

impl ReadThrough {
    /// Reads through the engine's client into its store.
    pub fn new(
        engine: Engine,
        unopened: UnopenedStore,
        (readiness, membership): (Readiness, Arc<Membership>),
        metrics: ReadThroughMetrics,
    ) -> Self {
        let shared = Shared {
            engine,
            unopened,
            readiness,
            members: membership.watch(),
            membership,
            metrics,
            asking: Mutex::default(),
            buffered: Arc::new(Semaphore::new(BUFFERED_AT_ONCE)),
            streamed: Arc::new(Semaphore::new(STREAMED_AT_ONCE)),
            suspects: peers::Suspects::default(),
            openings: peers::Openings::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Asks the peers for an artifact that is not here. A peer that may have it and is opening its store is waited for
    /// until `until`.
    ///
    /// # Errors
    /// Our own store failed.
    pub async fn get(&self, name: &ArtifactKey, delivery: Delivery, until: Instant) -> Result<Through, StoreError> {
        match self.shared.worth_asking(name, delivery, until).await? {
            Some(read) => self.shared.timed(read).await,
            None => Ok(Through::Miss),
        }
    }

    /// Asks the peers for an artifact while our own store is not open. What was deleted here is a miss; nothing is kept.
    pub async fn get_unopened(&self, name: &ArtifactKey, delivery: Delivery, until: Instant) -> Through {
        let Some(read) = self.shared.before_open(name, delivery, until).await else { return Through::Miss };
        self.shared.timed(read).await.unwrap_or(Through::Miss)
    }

    /// Whether a peer that answers now holds an artifact that is not here, as far as its word goes. Waits as
    /// [`Self::get`] does.
    ///
    /// # Errors
    /// Our own store failed.
    pub async fn is_held(&self, name: &ArtifactKey, until: Instant) -> Result<Held, StoreError> {
        let Some(read) = self.shared.worth_asking(name, Delivery::Streamed, until).await? else { return Ok(Held::No) };
        let read = Read { method: Method::HEAD, ..read };
        loop {
            let held = match body::record(&self.shared, &read).await? {
                Ok(_) => Held::Yes,
                Err(held) => held,
            };
            if held != Held::Undecided || !is_time_left(until).await {
                return Ok(held);
            }
        }
    }

    /// The record of an artifact that a peer says it holds, while our own store is not open.
    pub async fn record_unopened(&self, name: &ArtifactKey, until: Instant) -> Option<Record> {
        let read = self.shared.before_open(name, Delivery::Streamed, until).await?;
        let read = Read { method: Method::HEAD, ..read };
        body::record(&self.shared, &read).await.ok()?.ok()
    }
}

/// Whether to ask again for what nobody has yet, after a pause.
async fn is_time_left(until: Instant) -> bool {
    let again_at = Instant::now() + peers::OPENING_PAUSE;
    if again_at >= until {
        return false;
    }
    tokio::time::sleep_until(again_at).await;
    true
}

impl Shared {
    /// What to ask for, or `None` if a miss here is a miss of the mesh as far as this node knows.
    async fn worth_asking(
        &self,
        name: &ArtifactKey,
        delivery: Delivery,
        until: Instant,
    ) -> Result<Option<Read>, StoreError> {
        let id = name.artifact_id(self.engine.client.tenant_id());
        let wanted = self.engine.store.call(move |store| store.wanted(&id)).await?;
        let is_worth = wanted.is_some() || !self.is_settled().await;
        let name = name.clone();
        Ok(is_worth.then_some(Read { id, name, wanted, delivery, method: Method::GET, until, unopened: None }))
    }

    /// What to ask for before our own store is open, or `None` as long as nobody knows what was deleted in it.
    async fn before_open(&self, name: &ArtifactKey, delivery: Delivery, until: Instant) -> Option<Read> {
        peers::first_round(&self.members, &self.readiness).await;
        let deleted_up_to = self.unopened.deleted_up_to(&name.namespace).await;
        let deleted_up_to = deleted_up_to.inspect_err(|error| {
            tracing::debug!(%error, "read_through_without_deletes");
        });
        let unopened = Some(Unopened { deleted_up_to: deleted_up_to.ok()? });
        let id = name.artifact_id(self.engine.client.tenant_id());
        Some(Read { id, name: name.clone(), wanted: None, delivery, method: Method::GET, until, unopened })
    }

    async fn timed(&self, read: Read) -> Result<Through, StoreError> {
        let began = self.engine.clock.monotonic();
        let answer = self.ask_once(read).await?;
        let waited = self.engine.clock.monotonic().saturating_sub(began);
        self.metrics.read(&answer, waited);
        Ok(answer)
    }

    /// Whether everything that the peers had is settled. Waits for the first round of discovery, which is on its way.
    async fn is_settled(&self) -> bool {
        peers::first_round(&self.members, &self.readiness).await;
        self.readiness.unsettled_peers().is_empty()
    }

    /// Asks, or waits for whoever asks already. Who waits takes the place of one who went away.
    async fn ask_once(&self, read: Read) -> Result<Through, StoreError> {
        loop {
            let mut told = match self.take_seat((read.id, read.unopened.is_none())) {
                Seat::First(seat) => return self.ask_first(read, seat).await,
                Seat::Behind(told) => told,
            };
            let Ok(told) = told.wait_for(Option::is_some).await.map(|told| told.clone()) else { continue };
            match told {
                Some(Told::Here) => return Ok(Through::Here),
                Some(Told::Whole(record, bytes)) => return Ok(Through::Whole(record, bytes)),
                Some(Told::Long) => return body::ask(self, &read).await,
                Some(Told::Miss) => return Ok(Through::Miss),
                Some(Told::Undecided) if !is_time_left(read.until).await => return Ok(Through::Undecided),
                Some(Told::Undecided) | None => {}
            }
        }
    }

    fn take_seat(&self, asked: Asked) -> Seat<'_> {
        let mut asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(told) = asking.get(&asked) {
            return Seat::Behind(told.clone());
        }
        let (tell, told) = watch::channel(None);
        asking.insert(asked, told);
        Seat::First(FirstSeat { shared: self, asked, tell })
    }

    async fn ask_first(&self, read: Read, seat: FirstSeat<'_>) -> Result<Through, StoreError> {
        let answer = loop {
            let answer = match read.unopened {
                Some(_) => body::ask(self, &read).await?,
                None => self.ask_in_flight(&read).await?,
            };
            if !matches!(answer, Through::Undecided) || !is_time_left(read.until).await {
                break answer;
            }
        };
        let told = match &answer {
            Through::Here | Through::Brought => Told::Here,
            Through::Whole(record, bytes) => Told::Whole(Arc::clone(record), bytes.clone()),
            Through::Stream(..) => Told::Long,
            Through::Miss => Told::Miss,
            Through::Undecided => Told::Undecided,
        };
        seat.tell.send_replace(Some(told));
        Ok(answer)
    }

    /// One try, during which no pass begins to fetch the same.
    async fn ask_in_flight(&self, read: &Read) -> Result<Through, StoreError> {
        // A pass may be fetching it, or have brought it since the look that missed.
        let _flight = tokio::time::timeout(PASS_WAIT, self.engine.flights.enter(read.id)).await.ok();
        if self.is_here(read).await? {
            return Ok(Through::Here);
        }
        let answer = body::ask(self, read).await?;
        // While the peers were asked, a pass may have settled it.
        let is_nowhere = matches!(answer, Through::Miss | Through::Undecided);
        Ok(if is_nowhere && self.is_here(read).await? { Through::Here } else { answer })
    }

    async fn is_here(&self, read: &Read) -> Result<bool, StoreError> {
        let id = read.id;
        Ok(self.engine.store.call(move |store| store.lookup(&id)).await?.is_some())
    }
}

/// Who asks, and who waits.
enum Seat<'a> {
    First(FirstSeat<'a>),
    Behind(watch::Receiver<Option<Told>>),
}

/// The one who asks; dropped at the end or when its client goes away, which wakes the others.
struct FirstSeat<'a> {
    shared: &'a Shared,
    asked: Asked,
    tell: watch::Sender<Option<Told>>,
}

impl Drop for FirstSeat<'_> {
    fn drop(&mut self) {
        self.shared.asking.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.asked);
    }
}
