//! One read among others: whether it is worth asking the peers, and who of those that wait for one artifact does.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use tokio::sync::{Semaphore, watch};

use super::body::{self, ThroughError};
use super::metrics::ReadThroughMetrics;
use super::peers;
use crate::core::base::ids::ArtifactId;
use crate::core::bootstrap::engine::Engine;
use crate::core::mesh::membership::Member;
use crate::core::mesh::readiness::Readiness;
use crate::core::store::error::StoreError;
use crate::core::store::record::{ArtifactKey, Record};
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
}

impl std::fmt::Debug for Through {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Here => "Here",
            Self::Brought => "Brought",
            Self::Whole(..) => "Whole",
            Self::Stream(..) => "Stream",
            Self::Miss => "Miss",
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
}

type Asking = HashMap<ArtifactId, watch::Receiver<Option<Told>>>;

/// Reads through this node to its peers; cheap to clone.
#[derive(Debug, Clone)]
pub struct ReadThrough {
    shared: Arc<Shared>,
}

/// What all reads share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) engine: Engine,
    pub(super) readiness: Readiness,
    /// Never marked as seen, so that it tells whether there was a round of discovery at all.
    pub(super) members: watch::Receiver<Arc<Vec<Member>>>,
    pub(super) metrics: ReadThroughMetrics,
    asking: Mutex<Asking>,
    pub(super) buffered: Arc<Semaphore>,
    pub(super) streamed: Arc<Semaphore>,
    pub(super) suspects: peers::Suspects,
}

/// One read: of what, and what is known of it.
#[derive(Debug, Clone)]
pub(super) struct Read {
    pub(super) id: ArtifactId,
    pub(super) name: ArtifactKey,
    pub(super) wanted: Option<Wanted>,
    pub(super) delivery: Delivery,
}

impl ReadThrough {
    /// Reads through the engine's client into its store.
    pub fn new(
        engine: Engine,
        readiness: Readiness,
        members: watch::Receiver<Arc<Vec<Member>>>,
        metrics: ReadThroughMetrics,
    ) -> Self {
        let shared = Shared {
            engine,
            readiness,
            members,
            metrics,
            asking: Mutex::default(),
            buffered: Arc::new(Semaphore::new(BUFFERED_AT_ONCE)),
            streamed: Arc::new(Semaphore::new(STREAMED_AT_ONCE)),
            suspects: peers::Suspects::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Asks the peers for an artifact that is not here.
    ///
    /// # Errors
    /// Our own store failed.
    pub async fn get(&self, name: &ArtifactKey, delivery: Delivery) -> Result<Through, StoreError> {
        let shared = &self.shared;
        let Some(read) = shared.worth_asking(name, delivery).await? else { return Ok(Through::Miss) };
        let began = shared.engine.clock.monotonic();
        let answer = shared.ask_once(read).await?;
        let waited = shared.engine.clock.monotonic().saturating_sub(began);
        shared.metrics.read(&answer, waited);
        Ok(answer)
    }

    /// Whether a peer that answers now holds an artifact that is not here, as far as its word goes.
    ///
    /// # Errors
    /// Our own store failed.
    pub async fn is_held(&self, name: &ArtifactKey) -> Result<bool, StoreError> {
        match self.shared.worth_asking(name, Delivery::Streamed).await? {
            Some(read) => Ok(peers::is_held(&self.shared, &read).await),
            None => Ok(false),
        }
    }
}

impl Shared {
    /// What to ask for, or `None` if a miss here is a miss of the mesh as far as this node knows.
    async fn worth_asking(&self, name: &ArtifactKey, delivery: Delivery) -> Result<Option<Read>, StoreError> {
        let id = name.artifact_id(self.engine.client.tenant_id());
        let wanted = self.engine.store.call(move |store| store.wanted(&id)).await?;
        let is_worth = wanted.is_some() || !self.is_settled().await;
        Ok(is_worth.then(|| Read { id, name: name.clone(), wanted, delivery }))
    }

    /// Whether everything that the peers had is settled. Waits for the first round of discovery, which is on its way.
    async fn is_settled(&self) -> bool {
        peers::first_round(&self.members, &self.readiness).await;
        self.readiness.unsettled_peers().is_empty()
    }

    /// Asks, or waits for whoever asks already. Who waits takes the place of one who went away.
    async fn ask_once(&self, read: Read) -> Result<Through, StoreError> {
        loop {
            let mut told = match self.take_seat(read.id) {
                Seat::First(seat) => return self.ask_first(read, seat).await,
                Seat::Behind(told) => told,
            };
            let Ok(told) = told.wait_for(Option::is_some).await.map(|told| told.clone()) else { continue };
            match told {
                Some(Told::Here) => return Ok(Through::Here),
                Some(Told::Whole(record, bytes)) => return Ok(Through::Whole(record, bytes)),
                Some(Told::Long) => return body::ask(self, &read).await,
                Some(Told::Miss) => return Ok(Through::Miss),
                None => {}
            }
        }
    }

    fn take_seat(&self, id: ArtifactId) -> Seat<'_> {
        let mut asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(told) = asking.get(&id) {
            return Seat::Behind(told.clone());
        }
        let (tell, told) = watch::channel(None);
        asking.insert(id, told);
        Seat::First(FirstSeat { shared: self, id, tell })
    }

    async fn ask_first(&self, read: Read, seat: FirstSeat<'_>) -> Result<Through, StoreError> {
        // A pass may be fetching it, or have brought it since the look that missed.
        let flight = tokio::time::timeout(PASS_WAIT, self.engine.flights.enter(read.id)).await.ok();
        if self.is_here(&read).await? {
            seat.tell.send_replace(Some(Told::Here));
            return Ok(Through::Here);
        }
        let mut answer = body::ask(self, &read).await?;
        // While the peers were asked, a pass may have settled it.
        if matches!(answer, Through::Miss) && self.is_here(&read).await? {
            answer = Through::Here;
        }
        drop(flight);
        let told = match &answer {
            Through::Here | Through::Brought => Told::Here,
            Through::Whole(record, bytes) => Told::Whole(Arc::clone(record), bytes.clone()),
            Through::Stream(..) => Told::Long,
            Through::Miss => Told::Miss,
        };
        seat.tell.send_replace(Some(told));
        Ok(answer)
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
    id: ArtifactId,
    tell: watch::Sender<Option<Told>>,
}

impl Drop for FirstSeat<'_> {
    fn drop(&mut self) {
        self.shared.asking.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}
