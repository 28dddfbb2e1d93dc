//! Every Redis key, in one place.

/// The names of contract §5, with the namespace before them.
#[derive(Debug, Clone)]
pub struct Keys {
    prefix: String,
}

impl Keys {
    pub fn new(namespace: &str) -> Keys {
        let prefix = match namespace {
            "" => String::new(),
            name => format!("{name}:"),
        };
        Keys { prefix }
    }

    /// The hash: connections, cursors, counters.
    pub fn mailbox(&self, user: &str) -> String {
        format!("{}mailbox:{{{user}}}", self.prefix)
    }

    /// The list of waiting messages with normal priority.
    pub fn normal(&self, user: &str) -> String {
        format!("{}offline_messages:{{{user}}}", self.prefix)
    }

    /// The list of waiting messages with high priority.
    pub fn high(&self, user: &str) -> String {
        format!("{}offline_messages:{{{user}}}:high", self.prefix)
    }

    /// How this system's connections call themselves.
    pub fn client_name(&self) -> String {
        format!("{}catchup", self.prefix)
    }

    /// The record of the store itself: whether it is whole, and what it lost. In a cluster each
    /// primary has its own, in one of its slots, which the tag names; else the tag is empty.
    pub fn store(&self, tag: &str) -> String {
        match tag {
            "" => format!("{}catchup_store", self.prefix),
            tag => format!("{}catchup_store:{{{tag}}}", self.prefix),
        }
    }

    /// The set of users connected to a node.
    pub fn online_users(&self, node: &str) -> String {
        format!("{}online_users:{node}", self.prefix)
    }

    /// The newest message that any gateway read from `BROADCASTS`.
    pub fn newest_broadcast(&self) -> String {
        format!("{}newest_broadcast", self.prefix)
    }

    /// What a worker writes to learn how far the server's disk or replicas are.
    pub fn mark(&self, worker: &str) -> String {
        format!("{}mark:{worker}", self.prefix)
    }

    /// A gateway's lease.
    pub fn node(&self, node: &str) -> String {
        format!("{}node:{node}", self.prefix)
    }
}
