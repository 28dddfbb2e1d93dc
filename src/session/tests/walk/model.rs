//! A mailbox as the scripts of `mailbox/scripts` keep it, for one device, without a clock.

use super::random::Random;
use crate::protocol::{Epoch, Everyone, Lane, Life, Places, Position};
use crate::session::{PageRead, Placed, Registration, Run};

pub fn epoch(number: u8) -> Epoch {
    Epoch::from_bytes([number; 20])
}

/// When the message with this id was published.
pub fn time_ms(id: u64) -> u64 {
    1_000 + id
}

/// One list with what each of its places ever meant.
#[derive(Debug, Clone, Default)]
pub struct List {
    /// By place, the first is 1.
    fates: Vec<Fate>,
    /// How many places at the head left the list.
    removed: u64,
    /// The last place that the cap evicted.
    evicted: u64,
}

#[derive(Debug, Clone)]
struct Fate {
    id: u64,
    is_expired: bool,
}

impl List {
    pub fn last(&self) -> u64 {
        self.fates.len() as u64
    }

    pub fn id(&self, place: u64) -> u64 {
        self.fates[place as usize - 1].id
    }

    pub fn is_gone(&self, place: u64) -> bool {
        place <= self.removed || self.fates[place as usize - 1].is_expired
    }

    pub fn append(&mut self, id: u64) -> u64 {
        let is_expired = false;
        self.fates.push(Fate { id, is_expired });
        self.last()
    }

    pub fn evict(&mut self, count: u64) {
        self.removed = (self.removed + count).min(self.last());
        self.evicted = self.evicted.max(self.removed);
    }

    /// Lets `count` entries expire, beginning `offset` after the head.
    pub fn expire(&mut self, offset: u64, count: u64) {
        let from = (self.removed + offset) as usize;
        (self.fates.iter_mut().skip(from).take(count as usize)).for_each(|fate| {
            fate.is_expired = true;
        });
    }

    fn placed(&self, place: u64) -> Placed {
        let id = self.id(place);
        Placed {
            place,
            time_ms: time_ms(id),
            json: id.to_string().into(),
        }
    }

    /// As `read_run` and `read_page` of the scripts; cut short and out of order as several workers
    /// make it.
    fn run(&self, lane: Lane, after: u64, most: usize, random: &mut Random) -> Run {
        let mut before = after.max(self.removed);
        let mut messages = Vec::new();
        for place in before + 1..=self.last() {
            if messages.len() == most {
                break;
            }
            match (self.is_gone(place), messages.is_empty()) {
                (true, true) => before = place,
                (true, false) => break,
                (false, _) => messages.push(self.placed(place)),
            }
        }
        if random.below(4) == 0 && messages.len() > 1 {
            messages.truncate(1 + random.below(messages.len()));
        }
        for index in 1..messages.len() {
            messages.swap(index, index - random.below(2));
        }
        let evicted = self.evicted.min(before).saturating_sub(after);
        Run {
            lane,
            evicted,
            expired: before - after - evicted,
            messages,
        }
    }
}

/// A device's record.
#[derive(Debug, Clone)]
struct Device {
    places: [u64; 2],
    time_ms: u64,
    is_owed_store_lost: bool,
}

#[derive(Debug, Clone)]
pub struct Mailbox {
    pub epoch: Epoch,
    pub life: Option<Life>,
    pub lists: [List; 2],
    /// Whether a worker that appends sees a connection.
    pub is_connected: bool,
    device: Option<Device>,
}

impl Mailbox {
    pub fn new(epoch: Epoch) -> Mailbox {
        Mailbox {
            epoch,
            life: None,
            lists: [List::default(), List::default()],
            is_connected: false,
            device: None,
        }
    }

    pub fn last(&self) -> [u64; 2] {
        [self.lists[0].last(), self.lists[1].last()]
    }

    /// True where the device has acknowledged everything, also that the store lost messages.
    pub fn is_settled(&self) -> bool {
        let last = self.last();
        (self.device.as_ref())
            .is_some_and(|device| device.places == last && !device.is_owed_store_lost)
    }

    pub fn is_of(&self, time_line: (Epoch, Life)) -> bool {
        time_line == (self.epoch, self.life.unwrap_or(Life(0)))
    }

    /// As `repair.lua`: another life in which every device is owed `store_lost`.
    pub fn repair(&mut self, life: Life) {
        self.life = Some(life);
        if let Some(device) = &mut self.device {
            device.is_owed_store_lost = true;
        }
    }

    /// As `page.lua`.
    pub fn page(&mut self, after: [u64; 2], most: usize, random: &mut Random) -> PageRead {
        let run = [Lane::High, Lane::Normal].into_iter().find_map(|lane| {
            let list = &self.lists[lane.index()];
            let after = after[lane.index()];
            (after < list.last()).then(|| list.run(lane, after, most, random))
        });
        for list in &mut self.lists {
            while list.removed < list.last() && list.is_gone(list.removed + 1) {
                list.removed += 1;
            }
        }
        PageRead {
            now_ms: 1_000_000,
            last: self.last(),
            acknowledged: self.device.as_ref().map_or([0, 0], |device| device.places),
            acknowledged_ms: self.device.as_ref().map_or(0, |device| device.time_ms),
            run,
        }
    }

    /// As `register.lua`.
    pub fn register(
        &mut self,
        drawn: Life,
        again: Option<Life>,
        cursor: Option<Position>,
        most: usize,
        random: &mut Random,
    ) -> Registration {
        let life = *self.life.get_or_insert(drawn);
        let last = self.last();
        let given = cursor.filter(|given| {
            (given.epoch, given.life) == (self.epoch, life)
                && given.places.own[0] <= last[0]
                && given.places.own[1] <= last[1]
        });
        let device = self.device.get_or_insert(Device {
            places: [0, 0],
            time_ms: 0,
            is_owed_store_lost: false,
        });
        if let Some(given) = given {
            device.advance(&given);
        }
        if cursor.is_some_and(|given| given.life != life) || again.is_some_and(|old| old != life) {
            device.is_owed_store_lost = true;
        }
        let device = device.clone();
        self.is_connected = true;
        let read = self.page(device.places, most, random);
        self.trim(device.places);
        Registration {
            start: Position {
                epoch: self.epoch,
                life,
                places: Places {
                    own: device.places,
                    everyone: Everyone::default(),
                },
                time_ms: device.time_ms,
                store_lost_told: false,
            },
            pending: last[0] + last[1] - device.places[0] - device.places[1],
            store_lost: device.is_owed_store_lost,
            read,
        }
    }

    /// As `ack.lua`.
    pub fn acknowledge(&mut self, position: &Position) {
        let last = self.last();
        let own = position.places.own;
        let is_known = self.is_of((position.epoch, position.life));
        let (true, Some(device)) = (is_known, &mut self.device) else {
            return;
        };
        assert!(own[0] <= last[0] && own[1] <= last[1], "ahead: {own:?}");
        device.advance(position);
        let places = device.places;
        self.trim(places);
    }

    fn trim(&mut self, places: [u64; 2]) {
        for (list, place) in self.lists.iter_mut().zip(places) {
            list.removed = list.removed.max(place);
        }
    }
}

impl Device {
    fn advance(&mut self, position: &Position) {
        for (place, given) in self.places.iter_mut().zip(position.places.own) {
            *place = given.max(*place);
        }
        self.time_ms = self.time_ms.max(position.time_ms);
        self.is_owed_store_lost &= !position.store_lost_told;
    }
}
