//! What `register` should do, by the plain model.

use catchup::mailbox::ConnectionId;
use catchup::protocol::{Everyone, Position};

use super::model::{ConnectionModel, Model, PageModel, Record};

pub struct Request {
    pub device: String,
    pub id: ConnectionId,
    pub order: Option<u64>,
    pub session_life: Option<u64>,
    pub cursor: Option<Position>,
    pub newest: Everyone,
    pub most: usize,
}

/// What only the store decides: its time line, the life it may have drawn, the order it gave.
pub struct Given {
    pub epoch: usize,
    pub has_epoch: bool,
    pub life: u64,
    pub order: u64,
}

#[derive(Debug)]
pub struct Expected {
    pub start: Record,
    pub page: PageModel,
    pub pending: u64,
    pub replaced: Option<ConnectionId>,
    /// The device has no past: it neither is known nor proves that it was here.
    pub is_new: bool,
}

impl Model {
    /// The connection that would be replaced; `Err` where a newer one is there.
    pub fn take_over(&self, request: &Request) -> Result<Option<ConnectionId>, ()> {
        let former = self.replaced.get(&request.device);
        let mut mine = self.connections.iter();
        let Some(there) = mine.find(|one| one.device == request.device) else {
            return Ok(None);
        };
        if there.id == request.id {
            return Ok(former.cloned());
        }
        let is_same_process =
            there.id.node == request.id.node && there.id.incarnation == request.id.incarnation;
        let is_newer = match request.order {
            Some(order) => there.order > order,
            None => {
                former == Some(&request.id)
                    || (is_same_process && there.id.number > request.id.number)
            }
        };
        if is_newer {
            return Err(());
        }
        Ok(Some(there.id.clone()))
    }

    pub fn register(
        &mut self,
        request: &Request,
        replaced: Option<ConnectionId>,
        given: &Given,
    ) -> Expected {
        let is_first =
            !(self.devices.keys()).any(|device| *device != request.device && self.is_known(device));
        let was_nobody_connected = self.connections.is_empty();
        self.born(given.life);
        let (start, is_new) = self.start(request, given, is_first);
        if start.lost {
            self.hold_for_the_lost(given.epoch);
        }
        self.devices.insert(request.device.clone(), start.clone());
        if was_nobody_connected {
            self.sort();
        }
        self.connections.retain(|one| one.device != request.device);
        self.connections.push(ConnectionModel {
            device: request.device.clone(),
            id: request.id.clone(),
            order: given.order,
        });
        match &replaced {
            Some(replaced) => (self.replaced).insert(request.device.clone(), replaced.clone()),
            None => self.replaced.remove(&request.device),
        };
        let mut places = catchup::protocol::Places::default();
        places.own = start.places;
        let expected = Expected {
            page: self.page(&places, request.most),
            pending: self.pending(&start.places),
            start,
            replaced,
            is_new,
        };
        self.trim(given.epoch);
        expected
    }

    fn start(&self, request: &Request, given: &Given, is_first: bool) -> (Record, bool) {
        let life = self.life;
        let last = [self.lanes[0].last(), self.lanes[1].last()];
        let is_position = |cursor: &Position| given.has_epoch && Some(cursor.life.0) == life;
        // A cursor beyond what there is was given to nobody.
        let cursor = request.cursor.filter(|cursor| {
            let own = cursor.places.own;
            !is_position(cursor) || (own[0] <= last[0] && own[1] <= last[1])
        });
        let fresh = |places: [u64; 2]| Record {
            places,
            everyone: request.newest,
            time_ms: 0,
            seen: self.now,
            lost: false,
        };
        let record = self.devices.get(&request.device);
        let comes_back = cursor.is_some() || request.session_life.is_some();
        let floors = [self.lanes[0].floor, self.lanes[1].floor];
        let mut is_new = false;
        let mut start = match (record, &cursor) {
            (Some(record), _) if comes_back || self.is_known(&request.device) => record.clone(),
            (None, Some(cursor)) if is_position(cursor) => fresh(cursor.places.own),
            (None, _) if comes_back => fresh(floors),
            (record, _) if is_first => {
                is_new = true;
                let mut start = fresh(floors);
                if let Some(record) = record {
                    start.places[0] = start.places[0].max(record.places[0]);
                    start.places[1] = start.places[1].max(record.places[1]);
                    start.time_ms = record.time_ms;
                    start.lost = record.lost;
                }
                start
            }
            _ => {
                is_new = true;
                fresh(last)
            }
        };
        if let Some(cursor) = &cursor {
            if record.is_none() {
                start.everyone = cursor.places.everyone;
            }
            start.everyone = start.everyone.max(cursor.places.everyone);
            if is_position(cursor) {
                start.reach(cursor);
            } else if Some(cursor.life.0) != life || record.is_none() {
                start.lost = true;
            }
        }
        if let Some(session_life) = request.session_life {
            start.lost |= Some(session_life) != life || record.is_none();
        }
        start.seen = self.now;
        (start, is_new)
    }
}
