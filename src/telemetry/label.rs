//! The label values of the metrics, as enums: what is not listed here cannot be counted.

/// Declares an enum without fields and the label text of each variant.
macro_rules! labels {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident => $text:literal,)+ }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$doc])* $variant,)+
        }

        impl $name {
            /// Every variant, in the order of declaration, which is also that of `as usize`.
            pub const ALL: &'static [$name] = &[$($name::$variant,)+];

            /// The labels in the same order.
            pub const LABELS: &'static [&'static str] = &[$($text,)+];

            /// The value of the metric's label.
            pub fn label(self) -> &'static str {
                match self {
                    $($name::$variant => $text,)+
                }
            }
        }
    };
}

labels! {
    /// What became of an event (`catchup_events_total`).
    EventOutcome {
        /// Every named target's mailbox has it.
        Routed => "routed",
        /// Copied once for everyone.
        Broadcast => "broadcast",
        /// Refused, and kept in `DEAD_LETTERS`.
        DeadLetter => "dead_letter",
    }
}

labels! {
    /// What became of one user's message (`catchup_messages_total`).
    MessageOutcome {
        /// Once a mailbox append.
        Stored => "stored",
        /// Once a socket write of a message that was sent as it happened.
        Live => "live",
        /// Once a socket write of a message that had waited.
        Replayed => "replayed",
        /// Once a device that acknowledged it.
        Acked => "acked",
        /// Its time to live ended in the mailbox.
        Expired => "expired",
        /// Pushed out by the cap on waiting messages.
        Evicted => "evicted",
        /// Replaced by a newer one with the same collapse key.
        Collapsed => "collapsed",
        /// Left out because the user does not want it.
        Muted => "muted",
        /// Found in the mailbox already.
        Duplicate => "duplicate",
    }
}

labels! {
    /// How a message came to its socket (`catchup_delivery_seconds`).
    Path {
        /// Forwarded as it happened.
        Live => "live",
        /// Read from the mailbox.
        Replay => "replay",
    }
}

labels! {
    /// A step on the mailbox in Redis (`catchup_mailbox_seconds`).
    MailboxOperation {
        Append => "append",
        AppendOnce => "append_once",
        Register => "register",
        Page => "page",
        Ack => "ack",
        Reassert => "reassert",
        Unregister => "unregister",
        DropNode => "drop_node",
        /// Reads where users are connected.
        Presence => "presence",
        /// Makes sure that what was appended is there to stay.
        Confirm => "confirm",
    }
}

labels! {
    /// Why a gateway compared its users with their mailboxes (`catchup_reconciles_total`).
    ReconcileReason {
        /// The round that every connection goes through each minute or two.
        Periodic => "periodic",
        /// A forward's number was skipped on its link.
        LinkHole => "link_hole",
        /// A place was skipped within one user's forwards.
        PlaceGap => "place_gap",
        /// The bus dropped forwards that nobody took in time.
        SlowConsumer => "slow_consumer",
        /// The connection to NATS was lost for a while.
        BusReconnected => "bus_reconnected",
        /// The connection to Redis was lost for a while.
        StoreReconnected => "store_reconnected",
        /// Redis is on another time line.
        EpochChanged => "epoch_changed",
        /// The gateway's own lease had run out.
        LeaseLapsed => "lease_lapsed",
    }
}

labels! {
    /// A fetch of the key set that tokens are checked with (`catchup_key_fetches_total`).
    KeyFetch {
        Fetched => "fetched",
        /// The last good set stays.
        Failed => "failed",
    }
}

labels! {
    /// How a worker acknowledged an event to JetStream (`catchup_acknowledgements_total`).
    Acknowledgement {
        /// As soon as it was done: nothing of it is in Redis, or nothing is waited for.
        AtOnce => "at_once",
        /// When what was appended was there to stay.
        Confirmed => "confirmed",
        /// Not acknowledged, but appended once more: the connection broke meanwhile.
        Repeated => "repeated",
    }
}

labels! {
    /// What was found of a message that may have been stored before (`catchup_redelivered_total`).
    Redelivered {
        /// Waiting, or just trimmed: it is not stored again.
        Found => "found",
        /// Nothing: it was never stored, or so long ago that a device gets it twice.
        Stored => "stored",
    }
}

labels! {
    /// A limit that was reached (`catchup_limits_total`).
    Limit {
        /// Connections of one gateway.
        Connections => "connections",
        /// Connections of one user.
        UserConnections => "user_connections",
        /// Connections from one peer address.
        AddressConnections => "address_connections",
        /// Requests that are no connections yet.
        Requests => "requests",
        /// Time of a request's head, an admission or an upgrade.
        Handshake => "handshake",
        /// Open files of the process.
        OpenFiles => "open_files",
        /// Connections accepted in one second.
        AcceptRate => "accept_rate",
        /// Devices of one user.
        Devices => "devices",
        /// Frames or bytes that one client sent in a time.
        ClientFrames => "client_frames",
        /// Frames that wait for one slow socket: it falls back to its mailbox.
        SocketQueue => "socket_queue",
        /// Messages sent and not yet acknowledged.
        Window => "window",
        /// Forwards held back behind a skipped place.
        HeldForwards => "held_forwards",
        /// Replays that run at one time.
        Replays => "replays",
        /// Forwards that wait for a gateway's attention.
        ForwardQueue => "forward_queue",
        /// Work that waits for the mailbox.
        MailboxQueue => "mailbox_queue",
        /// Users whose comparison with the mailbox waits for its turn.
        ReconcileQueue => "reconcile_queue",
        /// Events, or their bytes, whose acknowledgement a worker holds.
        HeldAcknowledgements => "held_acknowledgements",
        /// No progress on a socket for 30 s.
        NoProgress => "no_progress",
    }
}
