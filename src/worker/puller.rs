//! One pull loop: what is held of a source, signs of progress for it, and one batch at a time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Subject;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::batch::{Judged, Routed, answer, judge, process};
use super::dead_letter::DeadLetter;
use super::examine::examine;
use super::{Shared, WorkerError};
use crate::bus::{Bus, Delivery, EventsStream, Pull, Pulled, Source};

/// Most messages of one source that a worker holds, in work or not.
const HELD_MAX: usize = 256;
/// Most events in one batch.
const BATCH_MAX: usize = 256;
/// Most targets of all events in one batch, unless one event alone has more: bounds memory.
const BATCH_TARGETS_MAX: usize = 50_000;
/// How often the server hears that what is held is in work; its patience is
/// [`crate::bus::ACK_WAIT`].
const PROGRESS: Duration = Duration::from_secs(3);
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
    /// The sources that are being pulled.
    pub pulling: watch::Sender<BTreeSet<Source>>,
}

/// Why a pull loop ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Finished {
    /// It was told to, and holds nothing.
    Stopped,
    /// Nothing can be pulled over this connection; it holds nothing.
    Gone(String),
}

type Work = Pin<Box<dyn Future<Output = Result<(), WorkerError>> + Send>>;
type Burial = Pin<Box<dyn Future<Output = u64> + Send>>;

struct Puller {
    shared: Arc<Shared>,
    creation_ms: u64,
    /// `None` once it stopped pulling.
    pull: Option<Pull>,
    held: VecDeque<Delivery>,
    work: Option<Work>,
    /// Where the deliveries of the batch in work are answered.
    in_work: Vec<Option<Subject>>,
    /// Refused events on their way to `DEAD_LETTERS`: they never hold up a batch.
    burials: FuturesUnordered<Burial>,
    buried: BTreeMap<u64, Option<Subject>>,
    gone: Option<String>,
    last_turn: Instant,
    /// True from such a pause on until the next pull request.
    is_stale: bool,
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
    let Assignment { source, stop, .. } = &assignment;
    let is_partition = matches!(source, Source::Partition(_));
    while let Err(error) = examine(&shared, *source, assignment.was_interrupted).await {
        debug!(?source, %error, "cannot examine what is pending");
        tokio::select! {
            () = tokio::time::sleep(EXAMINE_RETRY) => (),
            () = stop.cancelled() => return Ok(Finished::Stopped),
        }
    }
    let pull = match Pull::new(&intake, *source).await {
        Ok(pull) => pull,
        Err(error) => return Ok(Finished::Gone(error.to_string())),
    };
    let mut puller = Puller {
        creation_ms: assignment.events.creation_ms,
        pull: Some(pull),
        held: VecDeque::new(),
        work: None,
        in_work: Vec::new(),
        burials: FuturesUnordered::new(),
        buried: BTreeMap::new(),
        gone: None,
        last_turn: Instant::now(),
        is_stale: false,
        shared,
    };
    assignment.pulling.send_modify(|pulling| {
        pulling.insert(*source);
    });
    let result = puller.run(stop).await;
    assignment.pulling.send_modify(|pulling| {
        pulling.remove(source);
    });
    result?;
    if let Some(reason) = puller.gone {
        return Ok(Finished::Gone(reason));
    }
    // What was on its way when the pulls stopped would come late to the next owner.
    if is_partition
        && !assignment.lost.is_cancelled()
        && let Err(error) = examine(&puller.shared, *source, true).await
    {
        debug!(?source, %error, "cannot give back what was on its way");
    }
    Ok(Finished::Stopped)
}

impl Puller {
    async fn run(&mut self, stop: &CancellationToken) -> Result<(), WorkerError> {
        let mut progress = interval(PROGRESS);
        progress.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut store_up = self.shared.gate.up();
        loop {
            self.notice_pause();
            self.start_batch();
            let is_idle = self.work.is_none() && self.burials.is_empty();
            if is_idle && self.pull.is_none() {
                return Ok(());
            }
            let is_up = *store_up.borrow_and_update();
            self.ask(is_up).await;
            tokio::select! {
                result = next_work(&mut self.work) => {
                    self.work = None;
                    self.in_work.clear();
                    result?;
                }
                Some(sequence) = self.burials.next() => {
                    let reply = self.buried.remove(&sequence).flatten();
                    answer(&self.shared, reply, b"+TERM").await;
                }
                pulled = next_pulled(&mut self.pull) => self.take(pulled),
                () = stop.cancelled(), if self.pull.is_some() => self.stop().await,
                _ = progress.tick() => self.signal().await,
                _ = store_up.changed() => (),
            }
        }
    }

    /// Asks for as much as there is room for; for nothing while the store is away.
    async fn ask(&mut self, is_up: bool) {
        let room = HELD_MAX.saturating_sub(self.count());
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
                    self.held.push_back(*delivery);
                }
                Pulled::Ended => (),
                Pulled::Gone(reason) => self.give_up(reason),
            }
            next = self.pull.as_mut().and_then(Pull::next_ready);
        }
    }

    /// After a pause, what is held or was on its way counts as delivered before.
    fn notice_pause(&mut self) {
        if self.last_turn.elapsed() > STALE {
            self.is_stale = true;
            for delivery in &mut self.held {
                delivery.is_repeat = true;
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
            self.held.extend(pull.stop().await);
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
            let Some(delivery) = self.held.pop_front() else {
                break;
            };
            match judge(&self.shared, self.creation_ms, &delivery) {
                Judged::Route(routed) => {
                    targets += routed.target_count();
                    self.in_work.push(delivery.message.reply);
                    batch.push(*routed);
                }
                Judged::Refuse(letter) => self.bury(letter, delivery.message.reply),
            }
        }
        if !batch.is_empty() {
            let shared = Arc::clone(&self.shared);
            self.work = Some(Box::pin(async move { process(&shared, &batch).await }));
        }
    }

    fn bury(&mut self, letter: DeadLetter, reply: Option<Subject>) {
        // Delivered again while it is under way: the same grave.
        if self.buried.insert(letter.sequence, reply).is_some() {
            return;
        }
        let shared = Arc::clone(&self.shared);
        self.burials.push(Box::pin(async move {
            letter.keep(&shared).await;
            letter.sequence
        }));
    }

    /// Tells the server that all that is held is in work.
    async fn signal(&mut self) {
        // Signals would only pile up before a connection that is not there.
        if !self.shared.bus.state().borrow().connected {
            return;
        }
        let start = Instant::now();
        let held = self.held.iter().map(|delivery| &delivery.message.reply);
        for reply in held.chain(&self.in_work).chain(self.buried.values()) {
            answer(&self.shared, reply.clone(), b"+WPI").await;
        }
        if start.elapsed() > PROGRESS {
            warn!(
                seconds = start.elapsed().as_secs_f64(),
                "signs of progress were slow to send"
            );
        }
    }
}

async fn next_work(work: &mut Option<Work>) -> Result<(), WorkerError> {
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
