//! Random walks, far beyond what can be searched: more events, every kind of fault, several times.

use super::action::{self, Action};
use super::scope::{Budget, Scope};
use super::search::complaint_at_rest;
use super::world::World;
use crate::support::chance::Chance;

/// Steps after which a walk is only brought to its end.
const STEPS: usize = 400;
/// Most steps that bring it there; more would be a walk that never comes to rest.
const LAST_STEPS_MAX: usize = 5_000;
/// Of a hundred steps so many are faults, while the budget has any.
const FAULTS_PERCENT: u64 = 12;

/// A walk that went wrong.
pub struct Fall {
    pub scope: Scope,
    pub text: String,
    pub actions: Vec<Action>,
}

/// Walks once; returns how many steps that were.
pub fn walk(seed: u64) -> Result<usize, Box<Fall>> {
    let mut chance = Chance::new(seed);
    let scope = draw(&mut chance);
    let mut world = World::new(&scope);
    world.settle();
    let mut taken = Vec::new();
    let mut is_quiet = false;
    loop {
        let wrong = match &world.breach {
            Some(breach) => Some(format!("{:?}: {}", breach.invariant, breach.text)),
            None => complaint_at_rest(&scope, &world),
        };
        let is_stuck = taken.len() > STEPS + LAST_STEPS_MAX;
        if let Some(text) = wrong.or_else(|| is_stuck.then(|| "it never comes to rest".to_owned()))
        {
            return Err(Box::new(Fall {
                scope,
                text,
                actions: taken,
            }));
        }
        is_quiet |= taken.len() >= STEPS;
        let Some(action) = choose(&scope, &world, is_quiet, &mut chance) else {
            return Ok(taken.len());
        };
        world = world.after(&action, &scope);
        world.settle();
        taken.push(action);
    }
}

/// The next step; `None` at rest, where no fault is left to begin anew with.
fn choose(scope: &Scope, world: &World, is_quiet: bool, chance: &mut Chance) -> Option<Action> {
    let (mut usual, mut faults) = (Vec::new(), Vec::new());
    action::due(scope, world, &mut usual);
    let is_at_rest = usual.is_empty();
    action::possible(world, &mut usual);
    if !is_quiet {
        action::faults(scope, world, &mut faults);
    }
    let is_fault = is_at_rest || chance.percent(FAULTS_PERCENT);
    let from = match is_fault && !faults.is_empty() {
        true => faults,
        false if is_at_rest => return None,
        false => usual,
    };
    Some(chance.one_of(&from).clone())
}

fn draw(chance: &mut Chance) -> Scope {
    let events = 3 + chance.below(6) as u8;
    let mut up_to = |most: u64| chance.below(most + 1) as u8;
    let budget = Budget {
        losses: up_to(3),
        gateway_crashes: up_to(2),
        worker_crashes: up_to(2),
        lapses: up_to(2),
        breaks: up_to(4),
        late: up_to(2),
        roll_backs: up_to(2),
        wipes: up_to(1),
        passes: up_to(3),
    };
    Scope {
        devices: 1 + up_to(2),
        events,
        high: u16::from(up_to(255)) & u16::from(up_to(255)),
        cap: *chance.one_of(&[1, 2, 3, 1_000, 1_000, 1_000]),
        window: *chance.one_of(&[1, 2, 256, 256]),
        last_frames: 3,
        acknowledges_at_once: chance.percent(30),
        ..Scope::new("walk", budget)
    }
}
