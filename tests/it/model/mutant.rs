//! What the model can leave out, one thing at a time, to show that the search would notice.

/// A mistake in the protocol. None of them touches the session machine: they are in what workers,
/// gateways, scripts and clients do around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mutant {
    /// A worker tells the gateways before the message is stored.
    ForwardBeforeAppend,
    /// A worker reads where the user is connected, and stores the message in a second step.
    PresenceBeforeStoring,
    /// A gateway reads the first page, and adds the connection in a second step.
    RegisterAfterPage,
    /// `register` leaves the cursors of a new device to its first acknowledgement.
    RegisterWithoutCursor,
    /// A gateway stores the last place as acknowledged, whatever was pushed.
    AckPastPushed,
    /// A store that went back is on the time line that it was on.
    NoEpoch,
    /// A mailbox that was emptied begins with the life that it had.
    NoLife,
    /// What left a list is not remembered.
    NoTrimmedKeys,
    /// `missed` frames have no cursor.
    MissedWithoutCursor,
    /// `store_lost` is told once, and not kept until it is acknowledged.
    StoreLostNotOwed,
    /// `welcome` has no cursor.
    WelcomeWithoutCursor,
    /// The list's own expiry is set when its first entry comes, and not again.
    ExpiryAtLengthOne,
    /// A replay goes on until it has seen the highest place that any forward named.
    ReplayWaitsForHigh,
}

impl Mutant {
    pub const ALL: [Mutant; 13] = [
        Mutant::ForwardBeforeAppend,
        Mutant::PresenceBeforeStoring,
        Mutant::RegisterAfterPage,
        Mutant::RegisterWithoutCursor,
        Mutant::AckPastPushed,
        Mutant::NoEpoch,
        Mutant::NoLife,
        Mutant::NoTrimmedKeys,
        Mutant::MissedWithoutCursor,
        Mutant::StoreLostNotOwed,
        Mutant::WelcomeWithoutCursor,
        Mutant::ExpiryAtLengthOne,
        Mutant::ReplayWaitsForHigh,
    ];
}
