//! The exhaustive search of a scope, by stateright.
//!
//! Safety is asked of every state. That everything is delivered in the end is asked of every state
//! at rest, not by stateright's `eventually`: that one is only right where no path comes to a state
//! on two ways (a state that is known already is not followed again, though what was reached before
//! it may differ), and it overlooks cycles. It is enough to look at the states at rest, because
//! every path without further faults ends in one: each step that is due consumes something (an
//! event, a forward, an answer, a notice), or begins a read, and reads are numbered, so that a
//! cycle of such steps would make the number of states infinite. A search that ends shows that
//! there is none.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::time::{Duration, Instant};

use stateright::{Checker, HasDiscoveries, Model, Property};

use super::action::{self, Action};
use super::scope::Scope;
use super::shared::digest_of;
use super::world::{Invariant, World};

/// A state as the search keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    pub world: World,
    digest: u64,
}

impl State {
    pub fn new(mut world: World) -> State {
        world.settle();
        let digest = digest_of(&world);
        State { world, digest }
    }
}

impl Hash for State {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        hasher.write_u64(self.digest);
    }
}

/// The model that is searched.
pub struct Protocol(pub Scope);

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::new(World::new(&self.0))]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.world.breach.is_none() {
            action::due(&self.0, &state.world, actions);
            action::possible(&state.world, actions);
            action::faults(&self.0, &state.world, actions);
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        Some(State::new(state.world.after(&action, &self.0)))
    }

    fn properties(&self) -> Vec<Property<Protocol>> {
        fn keeps(state: &State, invariant: Invariant) -> bool {
            let breach = state.world.breach.as_ref();
            breach.is_none_or(|breach| breach.invariant != invariant)
        }
        vec![
            Property::always("I2", |_, state| keeps(state, Invariant::I2)),
            Property::always("I3", |_, state| keeps(state, Invariant::I3)),
            Property::always("I4", |_, state| keeps(state, Invariant::I4)),
            Property::always("I5", |_, state| keeps(state, Invariant::I5)),
            Property::always("I6", |_, state| keeps(state, Invariant::I6)),
            Property::always("at rest", |protocol: &Protocol, state: &State| {
                complaint_at_rest(&protocol.0, &state.world).is_none()
            }),
        ]
    }
}

/// What is wrong though nothing is under way; `None` where something is.
pub fn complaint_at_rest(scope: &Scope, world: &World) -> Option<String> {
    let mut due = Vec::new();
    action::due(scope, world, &mut due);
    match due.is_empty() && world.breach.is_none() {
        true => world.complaint_at_rest(),
        false => None,
    }
}

/// What a search came to.
pub struct Outcome {
    pub scope: Scope,
    pub states: usize,
    pub steps: usize,
    pub depth: usize,
    pub elapsed: Duration,
    /// False where the time was over before all states were seen.
    pub is_complete: bool,
    pub broken: Option<Counterexample>,
}

/// A path to a state where something does not hold.
pub struct Counterexample {
    /// The invariant, or `at rest`.
    pub property: &'static str,
    pub text: String,
    pub actions: Vec<Action>,
}

/// Searches all states, or until something is broken or the time is over. One thread goes through
/// the states by their distance, so that the counterexample is one of the shortest.
pub fn search(scope: Scope, threads: usize, limit: Duration) -> Outcome {
    let start = Instant::now();
    let checker = Protocol(scope)
        .checker()
        .threads(threads)
        .timeout(limit)
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    let elapsed = start.elapsed();
    let broken = checker
        .discoveries()
        .into_iter()
        .next()
        .map(|(property, path)| {
            let world = &path.last_state().world;
            let text = match &world.breach {
                Some(breach) => breach.text.clone(),
                None => complaint_at_rest(&scope, world).unwrap_or_default(),
            };
            Counterexample {
                property,
                text,
                actions: path.into_actions(),
            }
        });
    Outcome {
        scope,
        states: checker.unique_state_count(),
        steps: checker.state_count(),
        depth: checker.max_depth(),
        elapsed,
        is_complete: broken.is_none() && elapsed < limit,
        broken,
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Scope { name, mutant, .. } = &self.scope;
        match mutant {
            Some(mutant) => write!(formatter, "{mutant:?} ({name}): ")?,
            None => write!(formatter, "{name}: {}\n    ", self.scope)?,
        }
        let (states, steps, depth) = (self.states, self.steps, self.depth);
        let seconds = self.elapsed.as_secs_f64();
        match &self.broken {
            Some(broken) => write!(
                formatter,
                "{} broken after {} steps ({}), {states} states, {seconds:.1} s",
                broken.property,
                broken.actions.len(),
                broken.text,
            ),
            None if self.is_complete => write!(
                formatter,
                "all {states} states, {steps} steps, depth {depth}, nothing broken, {seconds:.1} s"
            ),
            None => write!(
                formatter,
                "not finished: {states} states, {steps} steps, depth {depth}, nothing broken, \
                 {seconds:.1} s"
            ),
        }
    }
}
