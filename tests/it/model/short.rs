//! The short form: every scope as it is, every mutant, and some walks.

use std::time::Duration;

use super::mutant::Mutant;
use super::scopes::{SHORT, scope_of};
use super::search::search;
use super::walk::walk;

/// Far more than any of the searches takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(300);
const WALKS: u64 = 3_000;

#[test]
fn every_promise_is_kept_in_all_states_of_every_scope() {
    for scope in SHORT {
        let outcome = search(scope, 1, LIMIT);
        println!("{outcome}");
        assert!(outcome.broken.is_none() && outcome.is_complete, "{outcome}");
    }
}

fn is_caught(mutant: Mutant) {
    let outcome = search(scope_of(mutant).with(mutant), 1, LIMIT);
    println!("{outcome}");
    assert!(outcome.broken.is_some(), "{outcome}");
}

#[test]
fn the_mutant_forward_before_append_is_caught() {
    is_caught(Mutant::ForwardBeforeAppend);
}

#[test]
fn the_mutant_presence_before_storing_is_caught() {
    is_caught(Mutant::PresenceBeforeStoring);
}

#[test]
fn the_mutant_register_after_page_is_caught() {
    is_caught(Mutant::RegisterAfterPage);
}

#[test]
fn the_mutant_register_without_cursor_is_caught() {
    is_caught(Mutant::RegisterWithoutCursor);
}

#[test]
fn the_mutant_ack_past_pushed_is_caught() {
    is_caught(Mutant::AckPastPushed);
}

#[test]
fn the_mutant_no_epoch_is_caught() {
    is_caught(Mutant::NoEpoch);
}

#[test]
fn the_mutant_no_life_is_caught() {
    is_caught(Mutant::NoLife);
}

#[test]
fn the_mutant_no_trimmed_keys_is_caught() {
    is_caught(Mutant::NoTrimmedKeys);
}

#[test]
fn the_mutant_missed_without_cursor_is_caught() {
    is_caught(Mutant::MissedWithoutCursor);
}

#[test]
fn the_mutant_store_lost_not_owed_is_caught() {
    is_caught(Mutant::StoreLostNotOwed);
}

#[test]
fn the_mutant_welcome_without_cursor_is_caught() {
    is_caught(Mutant::WelcomeWithoutCursor);
}

#[test]
fn the_mutant_expiry_at_length_one_is_caught() {
    is_caught(Mutant::ExpiryAtLengthOne);
}

#[test]
fn the_mutant_replay_waits_for_high_is_caught() {
    is_caught(Mutant::ReplayWaitsForHigh);
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
