//! One pull loop for each source that this worker should pull, over a connection of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::gate::StoreGate;
use super::puller::{Assignment, Finished, pull};
use super::{PARTITIONS, Shared, WorkerError, ended};
use crate::bus::{
    Bus, BusConfig, BusError, EventsStream, Source, assert_consumers, assert_streams,
    connect_reporting,
};

/// Wait before the pulls begin anew, at least: a message that breaks every connection must not
/// make a tight loop.
const RESTART: Duration = Duration::from_millis(200);
/// Wait between attempts to make or compare streams and consumers.
const ASSERT_RETRY: Duration = Duration::from_secs(1);

/// Why pulling ended.
#[derive(Debug)]
pub(super) enum Ended {
    Shutdown,
    /// The connection, or what is behind it, is not there any more; the text says what.
    Lost(String),
}

/// A pull loop's source and result.
type Report = (Source, Result<Finished, WorkerError>);

/// The pull loops of this worker.
pub(super) struct Crew {
    shared: Arc<Shared>,
    /// For the connection of the pulls.
    config: BusConfig,
    owned: watch::Receiver<BTreeSet<u16>>,
    pulling: watch::Sender<BTreeSet<Source>>,
    tasks: JoinSet<Report>,
    /// How to stop each loop that runs.
    stops: BTreeMap<Source, CancellationToken>,
    /// What was pulled when the connection broke, and is still to be pulled.
    interrupted: BTreeSet<Source>,
}

impl Crew {
    pub fn new(
        shared: Arc<Shared>,
        config: BusConfig,
        owned: watch::Receiver<BTreeSet<u16>>,
    ) -> Crew {
        Crew {
            config: BusConfig {
                name: format!("{}-pulls", config.name),
                ..config
            },
            shared,
            owned,
            pulling: watch::Sender::default(),
            tasks: JoinSet::new(),
            stops: BTreeMap::new(),
            interrupted: BTreeSet::new(),
        }
    }

    /// Pulls what this worker should, until `shutdown`. Cancel-safe: what runs then is left to
    /// [`Crew::drain`].
    ///
    /// # Errors
    ///
    /// Where NATS or the store cannot be used at all.
    pub async fn run(
        &mut self,
        mut settled: watch::Receiver<bool>,
        shutdown: &CancellationToken,
    ) -> Result<Ended, WorkerError> {
        loop {
            let (intake, events) = match self.prepare(shutdown).await {
                Ok(prepared) => prepared,
                Err(BusError::ShuttingDown) => return Ok(Ended::Shutdown),
                Err(error) => return ended(error),
            };
            let lost = CancellationToken::new();
            let ended = tokio::select! {
                ended = self.pull(&intake, events, &mut settled, &lost) => ended?,
                () = shutdown.cancelled() => return Ok(Ended::Shutdown),
            };
            warn!(reason = ended, "the pulls are interrupted and begin anew");
            self.not_pulling(&ended);
            lost.cancel();
            self.interrupted.extend(self.stops.keys());
            drop(intake);
            tokio::select! {
                finished = self.finish() => finished?,
                () = shutdown.cancelled() => return Ok(Ended::Shutdown),
            }
            tokio::time::sleep(RESTART).await;
        }
    }

    /// Stops all loops and waits until they hold nothing, at most `longest`. What is left then
    /// comes to other workers after its time.
    pub async fn drain(mut self, longest: Duration, gate: &StoreGate) {
        self.stops.values().for_each(CancellationToken::cancel);
        let finished = tokio::time::timeout(longest, self.finish()).await;
        let left = self.stops.len();
        match finished {
            Ok(Ok(())) => info!("the worker holds nothing more"),
            Ok(Err(error)) => error!(%error, left, "the worker ends and leaves events to others"),
            Err(_) => warn!(
                left,
                store_up = *gate.up().borrow(),
                "the worker ends and leaves events to others: sources that still held some"
            ),
        }
        self.tasks.shutdown().await;
    }

    /// A fresh connection for the pulls, and all that they need in JetStream.
    async fn prepare(&self, shutdown: &CancellationToken) -> Result<(Bus, EventsStream), BusError> {
        let bus = &self.shared.bus;
        loop {
            let report = |reason: &str| self.not_pulling(reason);
            let intake = connect_reporting(&self.config, shutdown, report).await?;
            let asserted = async {
                let events = assert_streams(bus, self.shared.limits.ttl_max).await?;
                assert_consumers(bus).await?;
                Ok::<_, BusError>(events)
            };
            match asserted.await {
                Ok(events) => return Ok((intake, events)),
                Err(error) if error.is_retryable() => self.not_pulling(&error.to_string()),
                Err(error) => return Err(error),
            }
            tokio::select! {
                () = tokio::time::sleep(ASSERT_RETRY) => (),
                () = shutdown.cancelled() => return Err(BusError::ShuttingDown),
            }
        }
    }

    fn not_pulling(&self, reason: &str) {
        (self.shared.health).set(PARTITIONS, Err(format!("not pulled: {reason}")));
    }

    /// Keeps a loop running for each source that should be pulled; returns what stopped it.
    async fn pull(
        &mut self,
        intake: &Bus,
        events: EventsStream,
        settled: &mut watch::Receiver<bool>,
        lost: &CancellationToken,
    ) -> Result<String, WorkerError> {
        let mut intake_state = intake.state();
        let mut pulling = self.pulling.subscribe();
        loop {
            let wanted = self.wanted();
            self.stop_unwanted(&wanted);
            for &source in &wanted {
                if !self.stops.contains_key(&source) {
                    self.start(source, intake, events, lost);
                }
            }
            let is_settled = *settled.borrow_and_update();
            self.report(&wanted, &pulling.borrow_and_update(), is_settled);
            tokio::select! {
                Some(report) = self.tasks.join_next() => {
                    if let Some(reason) = self.take(report)? {
                        return Ok(reason);
                    }
                }
                changed = self.owned.changed() => if changed.is_err() {
                    return Ok("this worker left the fleet".to_owned());
                },
                // An error means that the fleet's task ended: the arm above sees it too.
                Ok(()) = settled.changed() => (),
                Ok(()) = pulling.changed() => (),
                // Also where it is back already: what was on its way is lost.
                _ = intake_state.wait_for(|state| state.outages > 0) => {
                    return Ok("the connection for pulls broke".to_owned());
                }
                () = intake.closed().cancelled() => {
                    return Ok("the connection for pulls was given up".to_owned());
                }
            }
        }
    }

    fn wanted(&mut self) -> BTreeSet<Source> {
        let owned = self.owned.borrow_and_update();
        let partitions = owned.iter().copied().map(Source::Partition);
        partitions.chain(Source::SHARED).collect()
    }

    fn stop_unwanted(&mut self, wanted: &BTreeSet<Source>) {
        self.interrupted.retain(|source| wanted.contains(source));
        for (source, stop) in &self.stops {
            if !wanted.contains(source) {
                stop.cancel();
            }
        }
    }

    fn start(
        &mut self,
        source: Source,
        intake: &Bus,
        events: EventsStream,
        lost: &CancellationToken,
    ) {
        let stop = lost.child_token();
        self.stops.insert(source, stop.clone());
        let assignment = Assignment {
            source,
            events,
            was_interrupted: self.interrupted.remove(&source),
            stop,
            lost: lost.clone(),
            pulling: self.pulling.clone(),
        };
        let pulls = pull(Arc::clone(&self.shared), intake.clone(), assignment);
        self.tasks.spawn(async move { (source, pulls.await) });
    }

    /// Notes that a loop ended. A text says why no loop can go on.
    fn take(&mut self, report: Result<Report, JoinError>) -> Result<Option<String>, WorkerError> {
        match report {
            Ok((source, finished)) => {
                self.stops.remove(&source);
                match finished? {
                    Finished::Stopped => Ok(None),
                    Finished::Gone(reason) => {
                        self.interrupted.insert(source);
                        Ok(Some(reason))
                    }
                }
            }
            Err(panic) => {
                error!(%panic, "a pull loop ended by itself");
                Ok(Some("a pull loop ended by itself".to_owned()))
            }
        }
    }

    /// Waits until all loops have ended.
    async fn finish(&mut self) -> Result<(), WorkerError> {
        while let Some(report) = self.tasks.join_next().await {
            self.take(report)?;
        }
        self.stops.clear();
        self.pulling.send_modify(BTreeSet::clear);
        Ok(())
    }

    fn report(&self, wanted: &BTreeSet<Source>, pulling: &BTreeSet<Source>, is_settled: bool) {
        let missing = wanted.difference(pulling).count();
        let state = match (is_settled, missing) {
            (false, _) => Err("listening for the other workers".to_owned()),
            (true, 0) => Ok(()),
            (true, _) => Err(format!("{missing} of {} sources not pulled", wanted.len())),
        };
        self.shared.health.set(PARTITIONS, state);
    }
}
