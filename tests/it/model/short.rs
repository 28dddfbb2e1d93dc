//! The short form: every scope as it is, every mutant, and some walks.

use std::time::Duration;

use super::mutant::Mutant;
use super::scopes::{SHORT, scope_of};
use super::search::search;
use super::walk::walk;

/// Far more than any of the searches takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(300);
const WALKS: u64 = 300;

#[test]
fn every_promise_is_kept_in_all_states_of_every_scope() {
    for scope in SHORT {
        let outcome = search(scope, 1, LIMIT);
        println!("{outcome}");
        assert!(outcome.broken.is_none() && outcome.is_complete, "{outcome}");
    }
}

#[test]
fn every_mutant_is_caught() {
    for mutant in Mutant::ALL {
        let outcome = search(scope_of(mutant).with(mutant), 1, LIMIT);
        println!("{outcome}");
        assert!(outcome.broken.is_some(), "{outcome}");
    }
}

#[test]
fn random_walks_beyond_the_scopes_keep_every_promise() {
    for seed in 1..=WALKS {
        if let Err(fall) = walk(seed) {
            let actions: Vec<String> = (fall.actions.iter())
                .map(|action| format!("  {action:?}"))
                .collect();
            let (scope, text, actions) = (fall.scope, fall.text, actions.join("\n"));
            panic!("walk {seed}, {scope}: {text}\n{actions}");
        }
    }
}
