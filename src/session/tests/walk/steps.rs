//! What the adversary can do.

use super::model::{Mailbox, epoch, time_ms};
use super::witness::Witness;
use super::{Answer, Call, Notice, Question, Walk};
use crate::protocol::{Cursor, FRAME_MESSAGES_MAX, Lane, Life};
use crate::session::tests::identity;
use crate::session::{Effect, Forwarded, Placed, Session};

impl Walk {
    pub(super) fn tell(&self, step: impl FnOnce() -> String) {
        if self.is_told {
            eprintln!("  {}", step());
        }
    }

    pub(super) fn name(&mut self) -> u64 {
        self.names += 1;
        self.names
    }

    pub(super) fn append_some(&mut self) {
        let lane = Lane::ALL[self.random.below(2)];
        for _ in 0..=self.random.below(self.habits.burst) {
            self.append(lane);
        }
    }

    pub(super) fn append(&mut self, lane: Lane) {
        let id = self.name();
        let mailbox = &mut self.lines.current;
        let place = mailbox.lists[lane.index()].append(id);
        if mailbox.is_connected {
            self.forwards.push(Forwarded {
                epoch: mailbox.epoch,
                life: mailbox.life,
                lane,
                message: Placed {
                    place,
                    time_ms: time_ms(id),
                    json: id.to_string().into(),
                },
            });
        }
        self.tell(|| format!("append {lane:?} {place}: message {id}"));
    }

    pub(super) fn deliver_forward(&mut self, may_repeat: bool) {
        let Some(index) = self.random.index(self.forwards.len()) else {
            return;
        };
        // Mostly the oldest.
        let index = if self.random.below(3) == 0 { index } else { 0 };
        let forward = match may_repeat && self.random.below(10) == 0 {
            true => self.forwards[index].clone(),
            false => self.forwards.remove(index),
        };
        self.tell(|| format!("forward {:?} {}", forward.lane, forward.message.place));
        let effects = self.session.forwarded(forward);
        self.take(effects);
    }

    pub(super) fn lose_forward(&mut self) {
        let Some(index) = self.random.index(self.forwards.len()) else {
            return;
        };
        if !self.habits.loses {
            return;
        }
        let lost = self.forwards.remove(index);
        self.tell(|| format!("lose forward {:?} {}", lost.lane, lost.message.place));
        if self.habits.notices {
            let last = self.lines.current.last();
            self.notices.push(match self.random.coin() {
                true => Notice::Reconcile,
                false => Notice::Counted(last),
            });
        }
    }

    pub(super) fn remove_some(&mut self) {
        let list = &mut self.lines.current.lists[self.random.below(2)];
        let (kind, count, offset) = (
            self.random.coin(),
            1 + self.random.below(3) as u64,
            self.random.below(3) as u64,
        );
        match kind {
            true => list.evict(count),
            false => list.expire(offset, count),
        }
        self.tell(|| format!("remove {count}, evicted {kind}, offset {offset}"));
    }

    pub(super) fn ask(&mut self, number: u64, question: Question) {
        self.calls.push(Call {
            number,
            question,
            answer: None,
        });
    }

    /// Carries out a call in the mailbox, or gives its answer to the session.
    pub(super) fn go_on_with_a_call(&mut self) {
        let Some(index) = self.random.index(self.calls.len()) else {
            return;
        };
        if self.calls[index].answer.is_none() {
            return self.carry_out(index);
        }
        let Call { number, answer, .. } = self.calls.remove(index);
        let is_awaited = self.witness.awaited == Some(number);
        self.tell(|| format!("answer {number}, awaited {is_awaited}"));
        match answer {
            Some(Answer::Registration(registration)) => {
                let effects = self.session.registered(registration.clone());
                match effects.first() {
                    Some(Effect::Register { .. }) => self.witness.awaited = None,
                    _ => {
                        (self.witness).registered(&registration, &self.lines, &self.device);
                    }
                }
                self.take(effects);
            }
            Some(Answer::Page(page)) => {
                let effects = self.session.page_read(number, page.clone());
                match is_awaited {
                    true => self.witness.page_read(&page),
                    false => assert_eq!(effects, [], "a stale answer"),
                }
                self.take(effects);
            }
            Some(Answer::OtherTimeLine) => self.register_again(),
            None => {}
        }
    }

    pub(super) fn carry_out(&mut self, index: usize) {
        let drawn = Life(self.name());
        let mailbox = &mut self.lines.current;
        let call = &mut self.calls[index];
        call.answer = Some(match &call.question {
            Question::Register { again } => {
                let cursor = again.map_or(self.cursor, |_| self.session.acknowledged());
                let most = FRAME_MESSAGES_MAX.min(self.habits.window as usize);
                let registration = mailbox.register(drawn, *again, cursor, most, &mut self.random);
                Answer::Registration(registration)
            }
            Question::Page { after, most } => match mailbox.is_of((after.epoch, after.life)) {
                true => Answer::Page(mailbox.page(after.places.own, *most, &mut self.random)),
                false => Answer::OtherTimeLine,
            },
        });
        let number = call.number;
        self.tell(|| format!("carry out {number}"));
    }

    pub(super) fn register_again(&mut self) {
        let effects = self.session.register_again();
        self.take(effects);
    }

    pub(super) fn client_acknowledges(&mut self) {
        let Some(index) = self.random.index(self.witness.frames.len()) else {
            return;
        };
        let cursor = match self.random.coin() {
            true => self.witness.frames[index].cursor,
            false => self.witness.frames[self.witness.frames.len() - 1].cursor,
        };
        self.tell(|| format!("client acknowledges {:?}", cursor.position.places.own));
        self.acks.push_back(cursor.to_string());
    }

    pub(super) fn deliver_ack(&mut self) {
        let Some(text) = self.acks.pop_front() else {
            return;
        };
        self.tell(|| "ack arrives".to_owned());
        let cursor = Cursor::decode(&text).expect("a cursor of ours");
        self.witness.acknowledged(&cursor.position);
        let effects = self.session.ack(&text);
        self.take(effects);
    }

    pub(super) fn flush(&mut self) {
        let late = self.late.take_if(|_| self.random.coin());
        if let Some(position) = late.or_else(|| self.unflushed.take()) {
            self.tell(|| format!("store {:?}", position.places.own));
            self.lines.current.acknowledge(&position);
        }
    }

    pub(super) fn deliver_notice(&mut self) {
        let Some(index) = self.random.index(self.notices.len()) else {
            return;
        };
        let notice = self.notices.swap_remove(index);
        let effects = match notice {
            Notice::HoldExpired => {
                self.tell(|| "the hold expires".to_owned());
                self.session.hold_expired()
            }
            Notice::Reconcile => {
                self.tell(|| "reconcile".to_owned());
                self.session.reconcile()
            }
            Notice::Counted(last) => {
                self.tell(|| format!("counted {last:?}"));
                self.session.counted(last)
            }
            Notice::CheckEpoch => {
                self.tell(|| "the epoch is compared".to_owned());
                let epoch = self.session.time_line().map(|(epoch, _)| epoch);
                match epoch == Some(self.lines.current.epoch) {
                    true => self.session.reconcile(),
                    false => self.session.register_again(),
                }
            }
            Notice::RegisterAgain => {
                self.tell(|| "the time line ended: register again".to_owned());
                self.session.register_again()
            }
        };
        self.take(effects);
    }

    pub(super) fn ephemeral(&mut self) {
        let effects = self.session.ephemeral(1, "ephemeral".into());
        self.take(effects);
    }

    /// The store goes back to a snapshot, the mailbox is repaired, or it is deleted by hand.
    pub(super) fn end_the_time_line(&mut self) {
        let kind = self.random.below(4);
        let life = Life(self.name());
        self.lines.ended.push(self.lines.current.clone());
        match kind {
            0 => self.lines.current.repair(life),
            1 => self.lines.current = Mailbox::new(self.lines.current.epoch),
            _ => {
                if let Some(index) = self.random.index(self.snapshots.len()) {
                    self.lines.current = self.snapshots[index].clone();
                    self.snapshots.truncate(index + 1);
                }
                self.epochs += 1;
                self.lines.current.epoch = epoch(self.epochs);
            }
        }
        self.tell(|| format!("the time line ends: {kind}"));
        self.notices.push(Notice::RegisterAgain);
    }

    /// The connection ends, and the device comes again, with a cursor or without.
    pub(super) fn reconnect(&mut self) {
        if self.random.coin() {
            self.flush();
        }
        // Its last acknowledgement is lost, or stored late.
        self.late = self.unflushed.take().filter(|_| self.random.coin());
        self.cursor = match self.random.below(3) {
            0 => None,
            1 => self
                .witness
                .frames
                .last()
                .map(|frame| frame.cursor.position),
            _ => self.session.acknowledged(),
        };
        self.tell(|| "the device comes again".to_owned());
        self.calls.clear();
        self.notices.clear();
        self.acks.clear();
        if let (true, Some(position)) = (self.random.coin(), self.cursor) {
            // A client in a hurry: the same cursor also as its first frame.
            let cursor = Cursor::new(position, "ann", "phone");
            self.acks.push_back(cursor.to_string());
        }
        let itself = self.habits.acknowledges_itself;
        (self.session, _) = Session::new(identity(itself), self.habits.window);
        self.witness = Witness::new(self.habits.window, itself);
        self.ask(0, Question::Register { again: None });
    }

    pub(super) fn take(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            self.tell(|| format!("    {}", summary(&effect)));
            (self.witness).check(&effect, &self.lines, &mut self.device);
            match effect {
                Effect::Register { again } => self.ask(0, Question::Register { again }),
                Effect::ReadPage {
                    number,
                    after,
                    messages_max,
                } => {
                    let most = messages_max;
                    self.ask(number, Question::Page { after, most });
                }
                Effect::Acknowledge { position, .. } => self.unflushed = Some(position),
                Effect::Hold => self.notices.push(Notice::HoldExpired),
                Effect::CheckEpoch => self.notices.push(Notice::CheckEpoch),
                Effect::Send { .. } | Effect::Replayed { .. } | Effect::Close { .. } => {}
            }
        }
    }
}

fn summary(effect: &Effect) -> String {
    match effect {
        Effect::Send { frame, .. } => frame.encode(),
        Effect::ReadPage { number, after, .. } => format!("read {number} {:?}", after.places.own),
        Effect::Acknowledge { position, .. } => format!("acknowledge {:?}", position.places.own),
        other => format!("{other:?}"),
    }
}
