//! What can happen next: steps that must happen in the end, steps that may, and faults, which are
//! counted.

use super::mutant::Mutant;
use super::scope::{GATEWAYS, Scope};
use super::world::{Connection, Event, Stage, World};

/// Connections are named by their index, forwards too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// A worker stores an event and tells the gateways.
    Append(u8),
    /// Only with a mutant: a worker reads where the user is connected, and perhaps tells them.
    Look(u8),
    /// A worker stores an event, and the reply is lost.
    AppendUnheard(u8),
    /// JetStream hears that the event is stored for good.
    Confirm(u8),
    CrashWorker(u8),
    Forward(usize),
    LoseForward(usize),
    Connect {
        device: u8,
        gateway: u8,
    },
    /// The store carries out the next call of a connection.
    CarryOut(usize),
    Answer(usize),
    TakeFromInbox(usize),
    HoldExpires(usize),
    Acknowledge(usize),
    /// An acknowledgement of the time line before arrives.
    AcknowledgeFormer(usize),
    /// The call that stores the next acknowledgement is held up.
    HoldUp(usize),
    /// What was held up arrives.
    Arrive(usize),
    /// The connection brings so many frames more, and then nothing.
    Break {
        index: usize,
        frames: u8,
    },
    /// The gateway notices that the connection is broken.
    Close(usize),
    CrashGateway(u8),
    /// Workers take the gateway for dead.
    Lapse(u8),
    Recover(u8),
    DropNode {
        gateway: u8,
        incarnation: u8,
    },
    /// The store may go back to here.
    Checkpoint,
    RollBack,
    Wipe,
    Pass,
}

/// Steps that are taken in the end, whatever else happens.
pub fn due(scope: &Scope, world: &World, actions: &mut Vec<Action>) {
    append(scope, world, actions);
    actions.extend((0..world.forwards.len()).map(Action::Forward));
    for (index, connection) in world.connections.iter().enumerate() {
        due_on_connection(scope, world, index, connection, actions);
    }
    actions.extend((0..world.late.len()).map(Action::Arrive));
    for device in 0..scope.devices {
        connect(world, device, actions);
    }
    let gateways = (0..).zip(&world.gateways);
    let lapsed = gateways.filter(|(_, gateway)| gateway.is_lapsed);
    actions.extend(lapsed.map(|(gateway, _)| Action::Recover(gateway)));
}

/// A worker appends its events one after the other.
fn next_of_worker(world: &World) -> impl Iterator<Item = (u8, &Stage)> {
    let events = (0..).zip(&world.events);
    events.filter_map(|(number, event)| {
        let earlier = &world.events[..usize::from(number)];
        let is_blocked = (earlier.iter())
            .any(|earlier| earlier.worker == event.worker && is_before_append(&earlier.stage));
        (!is_blocked && is_before_append(&event.stage)).then_some((number, &event.stage))
    })
}

fn is_before_append(stage: &Stage) -> bool {
    !matches!(stage, Stage::Appended | Stage::Confirmed)
}

fn append(scope: &Scope, world: &World, actions: &mut Vec<Action>) {
    let looks_first = matches!(
        scope.mutant,
        Some(Mutant::ForwardBeforeAppend | Mutant::PresenceBeforeStoring)
    );
    actions.extend(next_of_worker(world).map(|(event, stage)| match stage {
        Stage::Waits if looks_first => Action::Look(event),
        _ => Action::Append(event),
    }));
}

fn due_on_connection(
    scope: &Scope,
    world: &World,
    index: usize,
    connection: &Connection,
    actions: &mut Vec<Action>,
) {
    match &connection.reading {
        Some(reading) if reading.is_half => actions.push(Action::CarryOut(index)),
        Some(_) if waits_for_high(scope, world, connection) => {}
        Some(_) => actions.push(Action::Answer(index)),
        None if connection.wanted.is_some() || connection.must_reassert => {
            actions.push(Action::CarryOut(index));
        }
        None => {}
    }
    if connection.session.is_some() && !connection.inbox.is_empty() {
        actions.push(Action::TakeFromInbox(index));
    }
    if connection.is_holding {
        actions.push(Action::HoldExpires(index));
    }
    if connection.unacknowledged().is_some() {
        actions.push(Action::Acknowledge(index));
    }
    if !connection.hears() {
        actions.push(Action::Close(index));
    }
}

/// Only with a mutant: the answer says less than a forward did, so the replay goes on reading. What
/// it would read is what it read, unless more was stored.
fn waits_for_high(scope: &Scope, world: &World, connection: &Connection) -> bool {
    let last = world.last();
    scope.mutant == Some(Mutant::ReplayWaitsForHigh)
        && (0..2).any(|lane| connection.high[lane] > last[lane])
}

/// Gateways are alike until one of them was used, and so are devices.
fn connect(world: &World, device: u8, actions: &mut Vec<Action>) {
    let is_there = world.connection_of(device).is_some();
    let is_turn = device == 0 || world.devices[usize::from(device) - 1].has_joined;
    if is_there || !is_turn {
        return;
    }
    let gateways = if world.numbers == 0 { 1 } else { GATEWAYS };
    actions.extend((0..gateways).map(|gateway| Action::Connect { device, gateway }));
}

/// Steps that may never be taken, and that each use something up.
pub fn possible(world: &World, actions: &mut Vec<Action>) {
    for (number, event) in (0..).zip(&world.events) {
        if event.stage == Stage::Appended && world.is_safe(number) {
            actions.push(Action::Confirm(number));
        }
    }
    for (index, connection) in world.connections.iter().enumerate() {
        if connection.former.is_some() && connection.hears() {
            actions.push(Action::AcknowledgeFormer(index));
        }
    }
    for (gateway, incarnation) in world.presence() {
        let there = world.gateways[usize::from(gateway)];
        if there.incarnation != incarnation || there.is_lapsed {
            actions.push(Action::DropNode {
                gateway,
                incarnation,
            });
        }
    }
}

/// Faults that the budget still allows.
pub fn faults(scope: &Scope, world: &World, actions: &mut Vec<Action>) {
    let left = &world.left;
    if left.losses > 0 {
        actions.extend((0..world.forwards.len()).map(Action::LoseForward));
        let unheard = next_of_worker(world).filter(|(_, stage)| matches!(stage, Stage::Waits));
        actions.extend(unheard.map(|(event, _)| Action::AppendUnheard(event)));
    }
    if left.worker_crashes > 0 {
        let has_work = |worker: &u8| {
            let mut events = world.events.iter();
            events.any(|event| event.worker == *worker && event.stage != Stage::Confirmed)
        };
        actions.extend(
            (0..super::scope::WORKERS)
                .filter(has_work)
                .map(Action::CrashWorker),
        );
    }
    for gateway in 0..GATEWAYS {
        let mut connections = world.connections.iter();
        let there = world.gateways[usize::from(gateway)];
        if !connections.any(|one| one.gateway == gateway) {
            continue;
        }
        if left.gateway_crashes > 0 {
            actions.push(Action::CrashGateway(gateway));
        }
        if left.lapses > 0 && !there.is_lapsed {
            actions.push(Action::Lapse(gateway));
        }
    }
    for (index, connection) in world.connections.iter().enumerate() {
        if left.breaks > 0 && connection.frames_left.is_none() {
            let frames = 0..=scope.last_frames;
            actions.extend(frames.map(|frames| Action::Break { index, frames }));
        }
        if left.late > 0 && connection.session.is_some() && !connection.is_held_up {
            actions.push(Action::HoldUp(index));
        }
    }
    faults_of_the_store(world, actions);
}

fn faults_of_the_store(world: &World, actions: &mut Vec<Action>) {
    let left = &world.left;
    if left.roll_backs > 0 {
        actions.push(match world.checkpoint {
            None => Action::Checkpoint,
            Some(_) => Action::RollBack,
        });
    }
    if left.wipes > 0 && world.mailbox.life.is_some() {
        actions.push(Action::Wipe);
    }
    // A day is longer than anything stays unconfirmed, or a store goes back.
    let is_quiet = world.forwards.is_empty() && world.late.is_empty() && world.checkpoint.is_none();
    let is_redelivered = |event: &Event| event.is_repeat && is_before_append(&event.stage);
    let is_quiet = is_quiet && !world.events.iter().any(is_redelivered);
    let is_idle = |one: &Connection| {
        one.session.is_some()
            && one.hears()
            && one.wanted.is_none()
            && one.reading.is_none()
            && !one.is_holding
            && !one.must_reassert
    };
    if left.passes > 0 && is_quiet && world.connections.iter().all(|one| is_idle(one)) {
        actions.push(Action::Pass);
    }
}
