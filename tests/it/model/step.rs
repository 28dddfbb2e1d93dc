//! What an action does.

use super::action::Action;
use super::mutant::Mutant;
use super::scope::{Scope, WORKERS};
use super::shared::Shared;
use super::world::{Connection, Ended, PAUSE, Stage, World, key_of};

impl World {
    /// The state after an action.
    pub fn after(&self, action: &Action, scope: &Scope) -> World {
        let mut next = self.clone();
        next.take(action, scope);
        if scope.acknowledges_at_once {
            next.acknowledge_all(scope);
        }
        let is_lost = matches!(action, Action::RollBack | Action::Wipe);
        if scope.mutant == Some(Mutant::NoTrimmedKeys) {
            next.mailbox.edit().forget_trimmed();
        }
        if !next.mailbox.is_untouched(&self.mailbox) {
            next.check_step(&self.mailbox, is_lost);
        }
        next
    }

    fn take(&mut self, action: &Action, scope: &Scope) {
        match *action {
            Action::Append(event) => self.append(event, scope.mutant),
            Action::Look(event) => self.look(event, scope.mutant),
            Action::AppendUnheard(event) => {
                self.left.losses -= 1;
                self.store(event, scope.mutant);
                self.check_once(event);
                self.events[usize::from(event)].stage = Stage::Waits;
            }
            Action::Confirm(event) => self.events[usize::from(event)].stage = Stage::Confirmed,
            Action::CrashWorker(worker) => self.crash_worker(worker),
            Action::Forward(index) => {
                let forward = self.forwards.remove(index);
                self.deliver(&forward, scope);
            }
            Action::LoseForward(index) => {
                self.left.losses -= 1;
                let lost = self.forwards.remove(index);
                // A number is missing on the link, so the gateway compares with the mailboxes.
                self.must_reassert(|one| {
                    (one.gateway, one.incarnation) == (lost.gateway, lost.incarnation)
                });
            }
            Action::Connect { device, gateway } => self.connect(device, gateway, scope),
            Action::DropNode {
                gateway,
                incarnation,
            } => self.drop_node(gateway, incarnation),
            Action::CrashGateway(gateway) => self.crash_gateway(gateway),
            Action::Lapse(gateway) => {
                self.left.lapses -= 1;
                self.gateways[usize::from(gateway)].is_lapsed = true;
            }
            Action::Recover(gateway) => {
                self.gateways[usize::from(gateway)].is_lapsed = false;
                self.must_reassert(|one| one.gateway == gateway);
            }
            Action::Arrive(index) => {
                let (device, position) = self.late.remove(index);
                self.acknowledge(device, position, scope.mutant);
            }
            Action::Checkpoint => self.checkpoint = Some(self.mailbox.clone()),
            Action::RollBack => self.roll_back(scope.mutant),
            Action::Wipe => self.wipe(),
            Action::Pass => self.pass(),
            _ => self.take_on_connection(action, scope),
        }
    }

    fn take_on_connection(&mut self, action: &Action, scope: &Scope) {
        match *action {
            Action::CarryOut(index) => self.carry_out_call(index, scope),
            Action::Answer(index) => self.take_answer(index, scope),
            Action::TakeFromInbox(index) => self.take_from_inbox(index, scope),
            Action::HoldExpires(index) => {
                self.connection_mut(index).is_holding = false;
                self.feed(index, scope, |session| session.hold_expired());
            }
            Action::Acknowledge(index) => self.acknowledge_heard(index, scope),
            Action::HoldUp(index) => {
                self.left.late -= 1;
                self.connection_mut(index).is_held_up = true;
            }
            Action::AcknowledgeFormer(index) => {
                if let Some(position) = self.connection_mut(index).former.take() {
                    self.take_acknowledgement(index, &position, scope);
                }
            }
            Action::Break { index, frames } => {
                self.left.breaks -= 1;
                self.connection_mut(index).frames_left = Some(frames);
            }
            Action::Close(index) => self.close(index),
            _ => {}
        }
    }

    fn acknowledge_all(&mut self, scope: &Scope) {
        let is_open = |one: &Shared<Connection>| one.unacknowledged().is_some();
        while let Some(index) = self.connections.iter().position(is_open) {
            self.acknowledge_heard(index, scope);
            if self.breach.is_some() {
                return;
            }
        }
    }

    fn acknowledge_heard(&mut self, index: usize, scope: &Scope) {
        if let Some(position) = self.connections[index].unacknowledged() {
            self.connection_mut(index).heard = None;
            self.take_acknowledgement(index, &position, scope);
        }
    }

    fn append(&mut self, event: u8, mutant: Option<Mutant>) {
        let looked = self.events[usize::from(event)].stage.clone();
        let place = self.store(event, mutant);
        self.check_once(event);
        match looked {
            Stage::Looked(processes) => self.forward(event, place, &processes),
            Stage::Told => {}
            Stage::Waits | Stage::Appended | Stage::Confirmed => {
                self.forward(event, place, &self.presence());
            }
        }
    }

    /// Only with a mutant.
    fn look(&mut self, event: u8, mutant: Option<Mutant>) {
        let presence = self.presence();
        let stage = match mutant {
            Some(Mutant::ForwardBeforeAppend) => {
                let lane = usize::from(self.events[usize::from(event)].lane);
                self.forward(event, self.last()[lane] + 1, &presence);
                Stage::Told
            }
            _ => Stage::Looked(presence),
        };
        self.events[usize::from(event)].stage = stage;
    }

    /// What it had not confirmed, the other worker gets.
    fn crash_worker(&mut self, worker: u8) {
        self.left.worker_crashes -= 1;
        for event in self
            .events
            .iter_mut()
            .filter(|event| event.worker == worker)
        {
            if event.stage != Stage::Confirmed {
                event.is_repeat |= event.stage != Stage::Waits;
                event.stage = Stage::Waits;
                event.worker = (worker + 1) % WORKERS;
            }
        }
    }

    /// Its sockets are gone, and another process takes over its name.
    fn crash_gateway(&mut self, gateway: u8) {
        self.left.gateway_crashes -= 1;
        let there = &mut self.gateways[usize::from(gateway)];
        there.incarnation += 1;
        there.is_lapsed = false;
        self.connections.retain(|one| one.gateway != gateway);
    }

    fn must_reassert(&mut self, which: impl Fn(&Connection) -> bool) {
        for connection in &mut self.connections {
            if which(connection) {
                connection.edit().must_reassert = true;
            }
        }
    }

    /// Whether the store cannot go back to before this event was appended.
    pub fn is_safe(&self, event: u8) -> bool {
        self.checkpoint.as_ref().is_none_or(|checkpoint| {
            let lane = &checkpoint.lanes[usize::from(self.events[usize::from(event)].lane)];
            lane.slots.iter().any(|slot| slot.key == key_of(event))
        })
    }

    fn end_time_line(&mut self) {
        self.ended.push(Shared::new(Ended {
            epoch: self.epoch,
            life: self.mailbox.life,
            lanes: self.mailbox.lanes.clone(),
        }));
    }

    /// The store loses what was written since the checkpoint. Every connection to it breaks: what
    /// is not confirmed is appended again, and the gateways look at its epoch.
    fn roll_back(&mut self, mutant: Option<Mutant>) {
        let Some(checkpoint) = self.checkpoint.take() else {
            return;
        };
        self.left.roll_backs -= 1;
        self.end_time_line();
        let now = self.mailbox.now;
        self.mailbox = checkpoint;
        let passed = now - self.mailbox.now;
        if passed > 0 {
            self.mailbox.edit().pass(passed);
        }
        if mutant != Some(Mutant::NoEpoch) {
            self.epoch += 1;
        }
        for event in &mut self.events {
            if event.stage == Stage::Appended {
                event.stage = Stage::Waits;
                event.is_repeat = true;
            }
        }
        self.must_reassert(|_| true);
    }

    /// Somebody deletes the mailbox. Only the periodic `reassert` notices that.
    fn wipe(&mut self) {
        self.left.wipes -= 1;
        self.end_time_line();
        self.mailbox.edit().wipe();
        self.must_reassert(|_| true);
    }

    /// Time passes, and the gateways assert their connections again.
    fn pass(&mut self) {
        self.left.passes -= 1;
        let before = self.mailbox.lanes.clone();
        self.mailbox.edit().pass(PAUSE);
        self.check_expiry(&before);
        for event in self
            .events
            .iter_mut()
            .filter(|event| event.stage == Stage::Appended)
        {
            event.stage = Stage::Confirmed;
        }
        for connection in self.connections.clone() {
            self.devices[usize::from(connection.device)].seen = self.mailbox.now;
            self.reassert(&connection, None);
        }
    }

    /// Makes states equal that cannot be told apart any more.
    pub fn settle(&mut self) {
        let gateways = self.gateways;
        self.forwards.retain(|forward| {
            gateways[usize::from(forward.gateway)].incarnation == forward.incarnation
        });
        self.forwards.sort_unstable();
        self.late.sort_unstable_by_key(|(device, position)| {
            (
                *device,
                *position.epoch.as_bytes(),
                position.life.0,
                position.places.own,
            )
        });
        if self.left.worker_crashes == 0 && self.left.roll_backs == 0 {
            for event in &mut self.events {
                if event.stage == Stage::Appended {
                    event.stage = Stage::Confirmed;
                }
            }
            self.checkpoint = None;
        }
        self.mailbox.seal();
        self.checkpoint.iter_mut().for_each(Shared::seal);
        self.ended.iter_mut().for_each(Shared::seal);
        self.connections.iter_mut().for_each(Shared::seal);
    }
}
