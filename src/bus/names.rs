//! The names of everything in NATS (contract §6), with the namespace in front.

/// Partitions of the keyed events. Fixed when the stream is made: the stored subjects carry it.
pub const PARTITIONS: u16 = 32;

/// Makes the names of one system; systems with different namespaces can share a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// Empty, or the namespace and `_`: before streams and consumers.
    flat: String,
    /// Empty, or the namespace and `.`: before subjects.
    dotted: String,
}

impl Names {
    /// `namespace` is empty or `[A-Za-z0-9_-]{1,32}`; the settings check it.
    pub fn new(namespace: &str) -> Names {
        let prefix = |separator: &str| match namespace {
            "" => String::new(),
            _ => format!("{namespace}{separator}"),
        };
        Names {
            flat: prefix("_"),
            dotted: prefix("."),
        }
    }

    pub fn events_stream(&self) -> String {
        format!("{}EVENTS", self.flat)
    }

    pub fn broadcasts_stream(&self) -> String {
        format!("{}BROADCASTS", self.flat)
    }

    pub fn broadcasts_subjects(&self) -> String {
        format!("{}broadcasts.>", self.dotted)
    }

    /// Where the copy of an event for everyone goes.
    pub fn broadcast(&self, event_type: &str, key: Option<&str>) -> String {
        match key {
            Some(key) => format!("{}broadcasts.{event_type}.{key}", self.dotted),
            None => format!("{}broadcasts.{event_type}", self.dotted),
        }
    }

    /// The consumer by which one gateway follows the copies; `unique` tells it from the others.
    pub fn broadcasts_consumer(&self, unique: &str) -> String {
        format!("{}broadcasts_{unique}", self.flat)
    }

    /// Where all gateways hear ephemeral messages for everyone.
    pub fn all_gateways(&self) -> String {
        format!("{}gateways.everyone", self.dotted)
    }

    pub fn dead_letters_stream(&self) -> String {
        format!("{}DEAD_LETTERS", self.flat)
    }

    /// What `EVENTS` takes: events without and with a key.
    pub fn events_subjects(&self) -> [String; 2] {
        [
            format!("{}events.*", self.dotted),
            format!("{}events.*.*", self.dotted),
        ]
    }

    pub fn dead_letters_subjects(&self) -> String {
        format!("{}dead_letters.>", self.dotted)
    }

    /// The subject transform of `EVENTS`: where keyed events go, by their key's hash.
    pub fn partition_transform(&self) -> [String; 2] {
        let dotted = &self.dotted;
        [
            format!("{dotted}events.*.*"),
            format!(
                "{dotted}events.{{{{partition({PARTITIONS},2)}}}}.{{{{wildcard(1)}}}}.{{{{wildcard(2)}}}}"
            ),
        ]
    }

    /// The durable consumer of one partition.
    pub fn partition_consumer(&self, partition: u16) -> String {
        format!("{}partition_{partition:02}", self.flat)
    }

    pub fn partition_subjects(&self, partition: u16) -> String {
        format!("{}events.{partition}.*.*", self.dotted)
    }

    /// The durable consumer of the events without a key.
    pub fn keyless_consumer(&self) -> String {
        format!("{}keyless", self.flat)
    }

    /// The durable consumer of the events that the subject transform passed over.
    pub fn escaped_consumer(&self) -> String {
        format!("{}escaped", self.flat)
    }

    /// The subject to publish an event on. The caller has checked type and key.
    pub fn event(&self, event_type: &str, key: Option<&str>) -> String {
        let dotted = &self.dotted;
        match key {
            Some(key) => format!("{dotted}events.{event_type}.{key}"),
            None => format!("{dotted}events.{event_type}"),
        }
    }

    /// From the subject an event is stored under to the one its publisher used, without the
    /// namespace: `events.<type>` or `events.<type>.<key>`.
    pub fn publishers_subject(&self, stored: &str) -> String {
        let subject = stored.strip_prefix(&self.dotted).unwrap_or(stored);
        let tokens: Vec<&str> = subject.split('.').collect();
        match tokens[..] {
            [events, _partition, event_type, key] => format!("{events}.{event_type}.{key}"),
            _ => subject.to_owned(),
        }
    }

    /// Where a refused event goes; `publishers_subject` has no namespace.
    pub fn dead_letter(&self, publishers_subject: &str) -> String {
        format!("{}dead_letters.{publishers_subject}", self.dotted)
    }

    /// The subject of one life of a gateway.
    pub fn gateway(&self, node: &str, incarnation: &str) -> String {
        format!("{}gateway.{node}.{incarnation}", self.dotted)
    }

    /// Where the workers tell each other that they live.
    pub fn workers_heartbeat(&self) -> String {
        format!("{}workers.heartbeat", self.dotted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_without_a_namespace_are_those_of_the_contract() {
        let names = Names::new("");
        assert_eq!(names.events_stream(), "EVENTS");
        assert_eq!(names.events_subjects(), ["events.*", "events.*.*"]);
        assert_eq!(names.dead_letters_stream(), "DEAD_LETTERS");
        assert_eq!(names.dead_letters_subjects(), "dead_letters.>");
        assert_eq!(
            names.partition_transform(),
            [
                "events.*.*",
                "events.{{partition(32,2)}}.{{wildcard(1)}}.{{wildcard(2)}}"
            ]
        );
        assert_eq!(names.partition_consumer(5), "partition_05");
        assert_eq!(names.partition_subjects(5), "events.5.*.*");
        assert_eq!(names.keyless_consumer(), "keyless");
        assert_eq!(names.event("new_post", None), "events.new_post");
        assert_eq!(names.event("new_post", Some("p1")), "events.new_post.p1");
        assert_eq!(names.gateway("n", "i"), "gateway.n.i");
        assert_eq!(names.broadcasts_stream(), "BROADCASTS");
        assert_eq!(names.broadcasts_subjects(), "broadcasts.>");
        assert_eq!(names.broadcast("t", Some("k")), "broadcasts.t.k");
    }

    #[test]
    fn a_namespace_stands_before_every_name() {
        let names = Names::new("staging");
        assert_eq!(names.events_stream(), "staging_EVENTS");
        assert_eq!(names.partition_consumer(31), "staging_partition_31");
        assert_eq!(names.keyless_consumer(), "staging_keyless");
        assert_eq!(names.broadcasts_stream(), "staging_BROADCASTS");
        assert_eq!(names.broadcasts_consumer("x"), "staging_broadcasts_x");
        assert_eq!(names.broadcasts_subjects(), "staging.broadcasts.>");
        assert_eq!(names.broadcast("t", None), "staging.broadcasts.t");
        assert_eq!(names.all_gateways(), "staging.gateways.everyone");
        assert_eq!(names.partition_subjects(31), "staging.events.31.*.*");
        assert_eq!(names.partition_transform()[0], "staging.events.*.*");
        assert_eq!(
            names.dead_letter("events.t.k"),
            "staging.dead_letters.events.t.k"
        );
        assert_eq!(names.workers_heartbeat(), "staging.workers.heartbeat");
    }

    #[test]
    fn a_stored_subject_leads_back_to_the_publishers() {
        let names = Names::new("");
        assert_eq!(names.publishers_subject("events.t"), "events.t");
        assert_eq!(names.publishers_subject("events.7.t.k"), "events.t.k");
        // A wildcard as a token escapes the transform.
        assert_eq!(names.publishers_subject("events.t.*"), "events.t.*");
        let names = Names::new("a");
        assert_eq!(names.publishers_subject("a.events.7.t.k"), "events.t.k");
    }
}
