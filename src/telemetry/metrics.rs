//! Every metric of the system, under the names of contract §7.
//!
//! Metrics of enums are made at once with every label, so that a panel shows zero rather than
//! nothing, and counting is an atomic addition without a look-up.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::label::{
    Acknowledgement, EventOutcome, KeyFetch, Limit, MailboxOperation, MessageOutcome, Path,
    ReconcileReason, Redelivered,
};

/// Event types that keep their own label; later ones are counted as `other` (contract §7), because
/// publishers make up types and each one costs a time series.
pub const EVENT_TYPES_MAX: usize = 50;

/// From 1 ms, a good live delivery, to the longest time that a message can wait.
const DELIVERY_BUCKETS_SECONDS: [f64; 21] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    300.0, 1_800.0, 3_600.0, 14_400.0, 43_200.0, 86_400.0,
];
const WAITED_BUCKETS_SECONDS: [f64; 13] = [
    0.1,
    1.0,
    5.0,
    15.0,
    60.0,
    300.0,
    900.0,
    3_600.0,
    14_400.0,
    43_200.0,
    86_400.0,
    604_800.0,
    2_592_000.0,
];
const MAILBOX_BUCKETS_SECONDS: [f64; 14] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0,
];

/// From an acknowledgement right after the append to one that an outage holds up.
const HELD_BUCKETS_SECONDS: [f64; 10] = [0.05, 0.25, 0.5, 1.0, 2.0, 2.5, 3.0, 5.0, 15.0, 60.0];

type EventFamily = Family<[(&'static str, String); 2], Counter>;
type OneLabel = [(&'static str, &'static str); 1];
/// The counters of one event type, by [`EventOutcome`].
type EventCounters = [Counter; EventOutcome::ALL.len()];

/// All metrics of a process. Shared as an `Arc`.
pub struct Metrics {
    registry: Registry,
    events: EventFamily,
    /// At most [`EVENT_TYPES_MAX`] types and their counters.
    event_types: RwLock<HashMap<String, EventCounters>>,
    event_other: EventCounters,
    event_invalid: Counter,
    messages: Vec<Counter>,
    connections: Gauge,
    delivery: Vec<Histogram>,
    waited: Histogram,
    mailbox: Vec<Histogram>,
    reconciles: Vec<Counter>,
    limits: Vec<Counter>,
    key_fetches: Vec<Counter>,
    acknowledgements: Acknowledgements,
}

/// What a worker tells JetStream, and when.
struct Acknowledgements {
    outcomes: Vec<Counter>,
    redelivered: Vec<Counter>,
    held: Gauge,
    held_seconds: Histogram,
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

impl Metrics {
    pub fn new() -> Metrics {
        let mut registry = Registry::with_prefix("catchup");
        let events = Family::default();
        let help = "Events taken from the stream, by outcome";
        registry.register("events", help, events.clone());
        let connections = Gauge::default();
        registry.register("connections", "Open connections", connections.clone());
        let waited = Histogram::new(WAITED_BUCKETS_SECONDS);
        let help = "How long a replayed message waited";
        registry.register("waited_seconds", help, waited.clone());
        Metrics {
            event_types: RwLock::default(),
            event_other: event_counters(&events, "other"),
            event_invalid: event_counter(&events, "invalid", EventOutcome::DeadLetter),
            events,
            messages: counters(
                &mut registry,
                "messages",
                "Messages, one a user, by what became of them",
                "outcome",
                MessageOutcome::LABELS,
            ),
            reconciles: counters(
                &mut registry,
                "reconciles",
                "Comparisons of connected users with their mailboxes",
                "reason",
                ReconcileReason::LABELS,
            ),
            limits: counters(
                &mut registry,
                "limits",
                "How often a limit was reached",
                "limit",
                Limit::LABELS,
            ),
            key_fetches: counters(
                &mut registry,
                "key_fetches",
                "Fetches of the key set that tokens are checked with",
                "outcome",
                KeyFetch::LABELS,
            ),
            acknowledgements: Acknowledgements::new(&mut registry),
            delivery: histograms(
                &mut registry,
                "delivery_seconds",
                "From an event's storing in JetStream to its frame's writing",
                &DELIVERY_BUCKETS_SECONDS,
                "path",
                Path::LABELS,
            ),
            mailbox: histograms(
                &mut registry,
                "mailbox_seconds",
                "Duration of a step on mailboxes in Redis",
                &MAILBOX_BUCKETS_SECONDS,
                "op",
                MailboxOperation::LABELS,
            ),
            connections,
            waited,
            registry,
        }
    }

    /// Counts an event whose subject was in order.
    pub fn event(&self, event_type: &str, outcome: EventOutcome) {
        let index = outcome as usize;
        let types = self
            .event_types
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(counters) = types.get(event_type) {
            counters[index].inc();
        } else if types.len() >= EVENT_TYPES_MAX {
            self.event_other[index].inc();
        } else {
            drop(types);
            self.event_of_a_further_type(event_type, outcome);
        }
    }

    fn event_of_a_further_type(&self, event_type: &str, outcome: EventOutcome) {
        let mut types = self
            .event_types
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        // Another task may have taken the last label between the two locks.
        if types.len() >= EVENT_TYPES_MAX && !types.contains_key(event_type) {
            self.event_other[outcome as usize].inc();
            return;
        }
        let counters = types
            .entry(event_type.to_owned())
            .or_insert_with(|| event_counters(&self.events, event_type));
        counters[outcome as usize].inc();
    }

    /// Counts an event that was refused for its subject, whose type is therefore no label.
    pub fn event_invalid(&self) {
        self.event_invalid.inc();
    }

    pub fn message(&self, outcome: MessageOutcome, count: u64) {
        self.messages[outcome as usize].inc_by(count);
    }

    pub fn connection_opened(&self) {
        self.connections.inc();
    }

    pub fn connection_closed(&self) {
        self.connections.dec();
    }

    /// From the event's storing in JetStream to its frame's writing. Clocks differ: less than
    /// nothing counts as nothing.
    pub fn delivery(&self, path: Path, seconds: f64) {
        self.delivery[path as usize].observe(seconds.max(0.0));
    }

    /// How long a replayed message waited for its user.
    pub fn waited(&self, seconds: f64) {
        self.waited.observe(seconds.max(0.0));
    }

    pub fn mailbox_operation(&self, operation: MailboxOperation, seconds: f64) {
        self.mailbox[operation as usize].observe(seconds.max(0.0));
    }

    pub fn reconcile(&self, reason: ReconcileReason) {
        self.reconciles[reason as usize].inc();
    }

    pub fn limit_hit(&self, limit: Limit) {
        self.limits[limit as usize].inc();
    }

    pub fn key_fetch(&self, outcome: KeyFetch) {
        self.key_fetches[outcome as usize].inc();
    }

    pub fn acknowledgement(&self, outcome: Acknowledgement, count: u64) {
        self.acknowledgements.outcomes[outcome as usize].inc_by(count);
    }

    pub fn redelivered(&self, outcome: Redelivered, count: u64) {
        self.acknowledgements.redelivered[outcome as usize].inc_by(count);
    }

    /// So many acknowledgements more are held; fewer where it is negative.
    pub fn acknowledgements_held(&self, change: i64) {
        self.acknowledgements.held.inc_by(change);
    }

    /// From an event's append to its acknowledgement.
    pub fn acknowledgement_held(&self, seconds: f64) {
        self.acknowledgements.held_seconds.observe(seconds.max(0.0));
    }

    /// The exposition in Prometheus's text format, version 0.0.4.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing into a string fails only where a metric's own encoding does, and these are all
        // numbers; what was written until then is still worth showing.
        let _ = encode(&mut text, &self.registry);
        to_prometheus_text(&text)
    }
}

impl Acknowledgements {
    fn new(registry: &mut Registry) -> Acknowledgements {
        let held = Gauge::default();
        let help = "Events that are done and whose acknowledgement is held";
        registry.register("acknowledgements_held", help, held.clone());
        let held_seconds = Histogram::new(HELD_BUCKETS_SECONDS);
        let help = "From an event's append to its acknowledgement";
        registry.register("acknowledgement_held_seconds", help, held_seconds.clone());
        Acknowledgements {
            outcomes: counters(
                registry,
                "acknowledgements",
                "Acknowledgements of events to JetStream",
                "outcome",
                Acknowledgement::LABELS,
            ),
            redelivered: counters(
                registry,
                "redelivered",
                "Messages that may have been stored before, by what was found",
                "outcome",
                Redelivered::LABELS,
            ),
            held,
            held_seconds,
        }
    }
}

fn counters(
    registry: &mut Registry,
    name: &'static str,
    help: &'static str,
    label: &'static str,
    values: &[&'static str],
) -> Vec<Counter> {
    let family = Family::<OneLabel, Counter>::default();
    registry.register(name, help, family.clone());
    let counter = |value: &&'static str| family.get_or_create_owned(&[(label, *value)]);
    values.iter().map(counter).collect()
}

fn histograms(
    registry: &mut Registry,
    name: &'static str,
    help: &'static str,
    buckets: &'static [f64],
    label: &'static str,
    values: &[&'static str],
) -> Vec<Histogram> {
    let make = move || Histogram::new(buckets.iter().copied());
    let family = Family::<OneLabel, Histogram, _>::new_with_constructor(make);
    registry.register(name, help, family.clone());
    let histogram = |value: &&'static str| family.get_or_create_owned(&[(label, *value)]);
    values.iter().map(histogram).collect()
}

fn event_counters(events: &EventFamily, event_type: &str) -> EventCounters {
    std::array::from_fn(|index| event_counter(events, event_type, EventOutcome::ALL[index]))
}

fn event_counter(events: &EventFamily, event_type: &str, outcome: EventOutcome) -> Counter {
    let event_type = event_type.to_owned();
    events.get_or_create_owned(&[
        ("type", event_type),
        ("outcome", outcome.label().to_owned()),
    ])
}

/// Turns OpenMetrics, which the crate writes, into the older text format, which every scraper
/// reads: there the description of a counter carries `_total` too, and no `# EOF` ends the text.
fn to_prometheus_text(open_metrics: &str) -> String {
    let counters: Vec<&str> = open_metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .collect();
    let mut text = String::with_capacity(open_metrics.len() + 64);
    for line in open_metrics.lines().filter(|line| *line != "# EOF") {
        let mut words = line.splitn(4, ' ');
        if let (Some("#"), Some(what), Some(name), Some(rest)) =
            (words.next(), words.next(), words.next(), words.next())
            && counters.contains(&name)
        {
            text.push_str(&format!("# {what} {name}_total {rest}\n"));
        } else {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_has_the_contracts_names() {
        let metrics = Metrics::new();
        metrics.event("new_post", EventOutcome::Routed);
        metrics.event_invalid();
        metrics.message(MessageOutcome::Stored, 3);
        metrics.connection_opened();
        metrics.connection_opened();
        metrics.connection_closed();
        metrics.delivery(Path::Replay, 3.0);
        metrics.delivery(Path::Live, -1.0);
        metrics.waited(90_000.0);
        metrics.mailbox_operation(MailboxOperation::AppendOnce, 0.002);
        metrics.reconcile(ReconcileReason::LinkHole);
        metrics.limit_hit(Limit::Devices);
        let text = metrics.encode();
        for line in [
            "# TYPE catchup_events_total counter",
            "catchup_events_total{type=\"new_post\",outcome=\"routed\"} 1",
            "catchup_events_total{type=\"invalid\",outcome=\"dead_letter\"} 1",
            "# TYPE catchup_messages_total counter",
            "catchup_messages_total{outcome=\"stored\"} 3",
            "catchup_messages_total{outcome=\"duplicate\"} 0",
            "# TYPE catchup_connections gauge",
            "catchup_connections 1",
            "# TYPE catchup_delivery_seconds histogram",
            "catchup_delivery_seconds_count{path=\"live\"} 1",
            "catchup_delivery_seconds_sum{path=\"live\"} 0.0",
            "catchup_delivery_seconds_bucket{le=\"86400.0\",path=\"replay\"} 1",
            "catchup_waited_seconds_count 1",
            "catchup_mailbox_seconds_count{op=\"append_once\"} 1",
            "catchup_reconciles_total{reason=\"link_hole\"} 1",
            "catchup_limits_total{limit=\"devices\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
        assert!(!text.contains("_total_total") && !text.contains("# EOF"));
        assert!(text.ends_with('\n'));
    }

    #[test]
    fn types_beyond_the_limit_share_a_label() {
        let metrics = Metrics::new();
        for index in 0..EVENT_TYPES_MAX + 10 {
            metrics.event(&format!("type_{index}"), EventOutcome::Routed);
            metrics.event("type_0", EventOutcome::DeadLetter);
        }
        let text = metrics.encode();
        let last = format!(
            "type=\"type_{}\",outcome=\"routed\"}} 1",
            EVENT_TYPES_MAX - 1
        );
        assert!(text.contains(&last));
        assert!(!text.contains(&format!("type_{EVENT_TYPES_MAX}\"")));
        assert!(text.contains("type=\"other\",outcome=\"routed\"} 10"));
        assert!(text.contains("type=\"type_0\",outcome=\"dead_letter\"} 60"));
    }
}
