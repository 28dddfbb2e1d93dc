//! One pull loop: what is held of a source, signs of progress for it, and one batch at a time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::batch::{Judged, Processed, Routed, answer, judge, process};
use super::dead_letter::DeadLetter;
use super::durability::Durability;
use super::examine::{Examination, examine};
use super::hold::{Awaiting, Item, Stamps};
use super::{Shared, WorkerError};
use crate::bus::{Bus, Delivery, EventsStream, Pull, Pulled, Source};
use crate::telemetry::{Acknowledgement, Limit};

/// Most messages of one source that a worker holds, in work or not; those that only wait for their
/// acknowledgement apart.
const HELD_MAX: usize = 256;
/// Most events in one batch.
const BATCH_MAX: usize = 256;
/// Most targets of all events in one batch, unless one event alone has more: bounds memory.
const BATCH_TARGETS_MAX: usize = 50_000;
/// After so long without an answer the server hears that a message is in work; its patience is
/// [`crate::bus::ACK_WAIT`].
const PROGRESS: Duration = Duration::from_secs(3);
/// How often it is looked whose time has come.
const PROGRESS_LOOK: Duration = Duration::from_secs(1);
/// After so long without a turn of the loop, because the process was stopped, what it holds may have
/// gone to another worker: the signs of progress were missing.
const STALE: Duration = Duration::from_secs(8);
/// Wait between attempts to examine what is pending.
const EXAMINE_RETRY: Duration = Duration::from_millis(500);

/// What a pull loop is told when it starts.
pub(super) struct Assignment {
    pub source: Source,
    pub events: EventsStream,
    /// True where this worker pulled the source until its connection broke.
    pub was_interrupted: bool,
    /// Cancelled: stop pulling, finish what is held.
    pub stop: CancellationToken,
    /// Cancelled as well where the connection for pulls is gone.
    pub lost: CancellationToken,
    /// What the last loop of this source left.
    pub awaiting: Awaiting,
    /// The sources that are being pulled.
    pub pulling: watch::Sender<BTreeSet<Source>>,
}

/// How a pull loop ended. Nothing is in work any more.
pub(super) struct Finished {
    /// Why nothing can be pulled over this connection; `None` where the loop was told to end.
    pub gone: Option<String>,
    /// What is done but for its acknowledgement.
    pub awaiting: Awaiting,
}

/// How long a puller runs after it stopped pulling.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    /// Until only acknowledgements are left.
    Done,
    /// Until nothing is left.
    Acknowledged,
}

/// The batch in work, as the tail of its future.
type Work = Pin<Box<dyn Future<Output = Result<Processed, WorkerError>> + Send>>;
type Burial = Pin<Box<dyn Future<Output = u64> + Send>>;

struct Puller {
    shared: Arc<Shared>,
    source: Source,
    creation_ms: u64,
    /// `None` once it stopped pulling.
    pull: Option<Pull>,
    held: VecDeque<Item>,
    work: Option<Work>,
    /// The events of the batch in work.
    in_work: Vec<Item>,
    /// Done, and not yet there to stay.
    awaiting: Awaiting,
    /// Refused events on their way to `DEAD_LETTERS`: they never hold up a batch.
    burials: FuturesUnordered<Burial>,
    buried: BTreeMap<u64, Item>,
    gone: Option<String>,
    last_turn: Instant,
    /// True from such a pause on until the next pull request.
    is_stale: bool,
    /// True while more is not asked for because of what is held.
    is_full: bool,
}

/// Pulls a source until it is told to stop or nothing more can come.
///
/// # Errors
///
/// Where the store cannot be used at all.
pub(super) async fn pull(
    shared: Arc<Shared>,
    intake: Bus,
    assignment: Assignment,
) -> Result<Finished, WorkerError> {
    let Assignment {
        source,
        events,
        was_interrupted,
        stop,
        lost,
        awaiting,
        pulling,
    } = assignment;
    let examination = Examination {
        give_back: was_interrupted,
        held: awaiting.sequences(),
        after: 0,
    };
    let mut puller = Puller::new(shared, source, events.creation_ms, awaiting);
    while let Err(error) = examine(&puller.shared, source, &examination).await {
        debug!(?source, %error, "cannot examine what is pending");
        tokio::select! {
            () = tokio::time::sleep(EXAMINE_RETRY) => (),
            () = stop.cancelled() => return Ok(puller.finished()),
        }
    }
    match Pull::new(&intake, source).await {
        Ok(pull) => puller.pull = Some(pull),
        Err(error) => {
            puller.give_up(error.to_string());
            return Ok(puller.finished());
        }
    }
    debug!(?source, "pulls");
    pulling.send_modify(|pulling| {
        pulling.insert(source);
    });
    let result = puller.run(&stop, Until::Done).await;
    pulling.send_modify(|pulling| {
        pulling.remove(&source);
    });
    result?;
    // What was on its way when the pulls stopped would come late to the next owner.
    let is_partition = matches!(source, Source::Partition(_));
    if is_partition && puller.gone.is_none() && !lost.is_cancelled() {
        let examination = Examination {
            give_back: true,
            held: puller.awaiting.sequences(),
            // All before that came, and was done.
            after: puller.awaiting.last_sequence(),
        };
        if let Err(error) = examine(&puller.shared, source, &examination).await {
            debug!(?source, %error, "cannot give back what was on its way");
        }
    }
    debug!(?source, "lets go");
    Ok(puller.finished())
}

/// Sees to what a pull loop left, until all of it is acknowledged.
///
/// # Errors
///
/// Where the store cannot be used at all.
pub(super) async fn see_out(
    shared: Arc<Shared>,
    source: Source,
    awaiting: Awaiting,
) -> Result<(), WorkerError> {
    // Nothing new is pulled, so no stream's creation is needed.
    let mut puller = Puller::new(shared, source, 0, awaiting);
    puller
        .run(&CancellationToken::new(), Until::Acknowledged)
        .await
}

impl Puller {
    fn new(shared: Arc<Shared>, source: Source, creation_ms: u64, awaiting: Awaiting) -> Puller {
        Puller {
            shared,
            source,
            creation_ms,
            pull: None,
            held: VecDeque::new(),
            work: None,
            in_work: Vec::new(),
            awaiting,
            burials: FuturesUnordered::new(),
            buried: BTreeMap::new(),
            gone: None,
            last_turn: Instant::now(),
            is_stale: false,
            is_full: false,
        }
    }

    fn finished(self) -> Finished {
        Finished {
            gone: self.gone,
            awaiting: self.awaiting,
        }
    }

    async fn run(&mut self, stop: &CancellationToken, until: Until) -> Result<(), WorkerError> {
        let mut progress = interval(PROGRESS_LOOK);
        progress.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut store_up = self.shared.gate.up();
        let mut confirmations = self.shared.holds.confirmations();
        loop {
            self.notice_pause();
            self.settle().await;
            self.start_batch();
            let is_idle = self.work.is_none() && self.burials.is_empty();
            let is_done = until == Until::Done || self.awaiting.is_empty();
            if is_idle && is_done && self.pull.is_none() {
                return Ok(());
            }
            let is_up = *store_up.borrow_and_update();
            self.ask(is_up).await;
            tokio::select! {
                processed = next_work(&mut self.work) => self.finish_batch(processed?).await,
                Some(sequence) = self.burials.next() => {
                    let reply = self.buried.remove(&sequence).and_then(|item| item.reply());
                    answer(&self.shared, reply, b"+TERM").await;
                }
                pulled = next_pulled(&mut self.pull) => self.take(pulled),
                () = stop.cancelled(), if self.pull.is_some() => self.stop().await,
                _ = progress.tick() => self.signal().await,
                _ = store_up.changed() => (),
                // The sender lives as long as what this loop shares.
                Ok(()) = confirmations.changed() => (),
            }
        }
    }

    /// Acknowledges what is there to stay, and takes back what may not be.
    async fn settle(&mut self) {
        let is_busy = self.work.is_some();
        let settled = self.awaiting.settle(&self.shared.holds, is_busy);
        for reply in settled.acknowledge {
            answer(&self.shared, reply, b"+ACK").await;
        }
        self.take_back(settled.again);
    }

    /// To the front of what is held, in the order given.
    fn take_back(&mut self, items: Vec<Item>) {
        for item in items.into_iter().rev() {
            self.held.push_front(item);
        }
    }

    /// What becomes of the events of a batch.
    async fn finish_batch(&mut self, processed: Processed) {
        self.work = None;
        let in_work = std::mem::take(&mut self.in_work);
        let stamps: Vec<Stamps> = match processed {
            Processed::Done(stamps) => stamps,
            Processed::Overtaken => {
                // The store is on another time line: what was appended before goes first.
                let mut items = in_work;
                for item in &mut items {
                    item.delivery.is_repeat = true;
                }
                self.take_back(items);
                let before = self.awaiting.take_all();
                (self.shared.metrics)
                    .acknowledgement(Acknowledgement::Repeated, before.len() as u64);
                return self.take_back(before);
            }
        };
        let is_held = self.shared.holds.durability != Durability::None;
        let mut at_once = 0;
        for (item, stamps) in in_work.into_iter().zip(stamps) {
            match is_held && !stamps.is_empty() {
                true => self.awaiting.hold(item, stamps, &self.shared.holds),
                false => {
                    answer(&self.shared, item.reply(), b"+ACK").await;
                    at_once += 1;
                }
            }
        }
        (self.shared.metrics).acknowledgement(Acknowledgement::AtOnce, at_once);
    }

    /// Asks for as much as there is room for; for nothing while the store is away.
    async fn ask(&mut self, is_up: bool) {
        let room = self.room();
        let Some(pull) = self.pull.as_mut().filter(|_| is_up && room >= HELD_MAX / 2) else {
            return;
        };
        if pull.outstanding() > 0 {
            return;
        }
        self.is_stale = false;
        if let Err(error) = pull.request(room).await {
            self.give_up(error.to_string());
        }
    }

    /// How many more may be pulled now.
    fn room(&mut self) -> usize {
        let count = self.count();
        let unacknowledged = count + self.awaiting.len();
        let allowed = (self.source.unacknowledged_max()).saturating_sub(unacknowledged);
        let has_too_many_bytes = !self.awaiting.is_empty() && self.shared.holds.is_full();
        let is_full = allowed < HELD_MAX || has_too_many_bytes;
        if is_full && !self.is_full {
            self.shared.metrics.limit_hit(Limit::HeldAcknowledgements);
        }
        self.is_full = is_full;
        match is_full {
            true => 0,
            false => HELD_MAX.saturating_sub(count),
        }
    }

    fn count(&self) -> usize {
        self.held.len() + self.in_work.len() + self.buried.len()
    }

    /// Takes what was pulled and all that is there with it.
    fn take(&mut self, pulled: Pulled) {
        self.notice_pause();
        let mut next = Some(pulled);
        while let Some(pulled) = next {
            match pulled {
                Pulled::Message(mut delivery) => {
                    delivery.is_repeat |= self.is_stale;
                    self.hold(*delivery);
                }
                Pulled::Ended => (),
                Pulled::Gone(reason) => self.give_up(reason),
            }
            next = self.pull.as_mut().and_then(Pull::next_ready);
        }
    }

    fn hold(&mut self, delivery: Delivery) {
        self.held.push_back(Item {
            delivery,
            creation_ms: self.creation_ms,
            signed: Instant::now(),
            is_first: true,
        });
    }

    /// After a pause, what is held or was on its way counts as delivered before.
    fn notice_pause(&mut self) {
        if self.last_turn.elapsed() > STALE {
            self.is_stale = true;
            for item in &mut self.held {
                item.delivery.is_repeat = true;
            }
        }
        self.last_turn = Instant::now();
    }

    fn give_up(&mut self, reason: String) {
        self.pull = None;
        self.gone = Some(reason);
    }

    /// Pulls no more; what has arrived is kept.
    async fn stop(&mut self) {
        if let Some(pull) = self.pull.take() {
            for delivery in pull.stop().await {
                self.hold(delivery);
            }
        }
    }

    /// Judges what is held, and starts work on as much of it as makes a batch.
    fn start_batch(&mut self) {
        if self.work.is_some() || self.held.is_empty() {
            return;
        }
        let mut batch: Vec<Routed> = Vec::new();
        let mut targets = 0;
        while batch.len() < BATCH_MAX && targets < BATCH_TARGETS_MAX {
            let Some(item) = self.held.pop_front() else {
                break;
            };
            match judge(&self.shared, &item) {
                Judged::Route(routed) => {
                    targets += routed.target_count();
                    self.in_work.push(item);
                    batch.push(*routed);
                }
                Judged::Refuse(letter) => self.bury(letter, item),
            }
        }
        if !batch.is_empty() {
            let shared = Arc::clone(&self.shared);
            let expected = self.awaiting.epochs();
            self.work = Some(Box::pin(async move {
                process(&shared, &batch, &expected).await
            }));
        }
    }

    fn bury(&mut self, letter: DeadLetter, item: Item) {
        // Delivered again while it is under way: the same grave.
        if self.buried.insert(letter.sequence, item).is_some() {
            return;
        }
        let shared = Arc::clone(&self.shared);
        self.burials.push(Box::pin(async move {
            letter.keep(&shared).await;
            letter.sequence
        }));
    }

    /// Tells the server what is still in work, where it has not heard of it for a while.
    async fn signal(&mut self) {
        // Signals would only pile up before a connection that is not there.
        if !self.shared.bus.state().borrow().connected {
            return;
        }
        let start = Instant::now();
        let in_work = self.in_work.iter_mut();
        let items = (self.held.iter_mut().chain(in_work))
            .chain(self.buried.values_mut())
            .chain(self.awaiting.items_mut());
        for item in items.filter(|item| start - item.signed >= PROGRESS) {
            item.signed = start;
            answer(&self.shared, item.reply(), b"+WPI").await;
        }
        if start.elapsed() > PROGRESS {
            warn!(
                seconds = start.elapsed().as_secs_f64(),
                "signs of progress were slow to send"
            );
        }
    }
}

async fn next_work(work: &mut Option<Work>) -> Result<Processed, WorkerError> {
    match work {
        Some(work) => work.await,
        None => std::future::pending().await,
    }
}

async fn next_pulled(pull: &mut Option<Pull>) -> Pulled {
    match pull {
        Some(pull) => pull.next().await,
        None => std::future::pending().await,
    }
}
