//! `append_once`: repeated, it changes nothing more.

use catchup::event::UserId;
use catchup::mailbox::{Append, MailboxError};
use catchup::protocol::Lane;
use redis::AsyncCommands;

use super::{Bench, HOUR_MS, after, entry, now_ms};

#[tokio::test]
async fn a_repeat_finds_the_first_place() {
    let bench = Bench::start().await;
    let append = bench.append_of(Lane::Normal, 1);
    let first = bench.append_once(&append).await.unwrap();
    bench.append([2]).await;
    let second = bench.append_once(&append).await.unwrap();
    assert_eq!((first.place, first.repeated), (1, false));
    assert_eq!((second.place, second.repeated), (1, true));
    assert_eq!(bench.waiting().await, [1, 2]);
}

#[tokio::test]
async fn it_finds_what_an_append_with_unknown_outcome_stored() {
    let bench = Bench::start().await;
    bench.append(1..=3).await;
    let batch: Vec<Append> = [3, 2, 4]
        .map(|one| bench.append_of(Lane::Normal, one))
        .into();
    let outcomes = bench.link.append_once(&batch).await;
    let places: Vec<(u64, bool)> = (outcomes.into_iter())
        .map(|outcome| outcome.map(|one| (one.place, one.repeated)).unwrap())
        .collect();
    assert_eq!(places, [(3, true), (2, true), (4, false)]);
}

#[tokio::test]
async fn an_acknowledged_message_is_not_stored_again() {
    let bench = Bench::start().await;
    bench.append(1..=2).await;
    let registered = bench.register("phone").await;
    let position = after(registered.start, &registered.page);
    bench.acknowledge("phone", &position).await;
    assert!(bench.waiting().await.is_empty());
    let repeat = bench.append_once(&bench.append_of(Lane::Normal, 2)).await;
    let repeat = repeat.unwrap();
    assert_eq!((repeat.place, repeat.repeated), (2, true));
    assert!(bench.waiting().await.is_empty());
}

#[tokio::test]
async fn an_evicted_or_expired_message_is_not_stored_again() {
    let bench = Bench::with(|config| config.cap = 2).await;
    let expired = bench.expired(1);
    bench.append_all(std::slice::from_ref(&expired)).await;
    bench.append(2..=4).await;
    assert_eq!(bench.waiting().await, [3, 4]);
    for append in [expired, bench.append_of(Lane::Normal, 2)] {
        assert!(bench.append_once(&append).await.unwrap().repeated);
    }
    assert_eq!(bench.waiting().await, [3, 4]);
}

#[tokio::test]
async fn an_old_message_is_found_behind_many_newer_ones() {
    let bench = Bench::start().await;
    bench.append(1..=1_000).await;
    for sequence in [3, 500, 1_000] {
        let append = bench.append_of(Lane::Normal, sequence);
        let repeat = bench.append_once(&append).await.unwrap();
        assert_eq!((repeat.place, repeat.repeated), (sequence, true));
    }
    let fresh = bench.append_of(Lane::Normal, 1_001);
    let outcomes = bench.link.append_first(std::slice::from_ref(&fresh)).await;
    let first = outcomes[0].clone().unwrap();
    assert_eq!((first.place, first.repeated), (1_001, false));
    let outcomes = bench.link.append_first(&[fresh]).await;
    let again = outcomes[0].clone().unwrap();
    assert_eq!((again.place, again.repeated), (1_001, true));
}

#[tokio::test]
async fn results_come_in_the_order_given_and_users_keep_theirs() {
    let bench = Bench::start().await;
    let users = ["ann", "bob"].map(|name| UserId::parse(name).unwrap());
    let batch: Vec<Append> = (0..40)
        .map(|index| Append {
            user: users[index % 2].clone(),
            lane: Lane::Normal,
            entry: entry(index as u64, now_ms() + HOUR_MS),
        })
        .collect();
    let outcomes = bench.link.append_once(&batch).await;
    for (index, outcome) in outcomes.into_iter().enumerate() {
        assert_eq!(outcome.unwrap().place, index as u64 / 2 + 1);
    }
    assert!(bench.waiting().await.is_sorted());
}

#[tokio::test]
async fn it_sets_the_expiry_that_an_append_left_out() {
    let bench = Bench::start().await;
    bench.append([1]).await;
    for key in [bench.key(Lane::Normal), bench.hash()] {
        let _: () = bench.redis().persist(key).await.unwrap();
    }
    bench
        .append_once(&bench.append_of(Lane::Normal, 1))
        .await
        .unwrap();
    for key in [bench.key(Lane::Normal), bench.hash()] {
        let left: i64 = bench.redis().pttl(&key).await.unwrap();
        assert!(left > 0, "{key}: {left}");
    }
}

#[tokio::test]
async fn it_evicts_past_the_cap() {
    let bench = Bench::with(|config| config.cap = 1).await;
    bench.append([1]).await;
    let append = bench.append_of(Lane::Normal, 2);
    assert_eq!(bench.append_once(&append).await.unwrap().evicted, 1);
    assert_eq!(bench.append_once(&append).await.unwrap().evicted, 0);
    assert_eq!(bench.waiting().await, [2]);
}

#[tokio::test]
async fn on_another_time_line_nothing_is_stored() {
    let mut bench = Bench::own(|_| ()).await;
    let stale = bench.link.clone();
    bench.change_epoch().await;
    let append = bench.append_of(Lane::Normal, 1);
    let outcome = stale.append_once(std::slice::from_ref(&append)).await;
    let current = bench.link.epoch();
    assert_eq!(outcome, [Err(MailboxError::EpochChanged { current })]);
    assert!(stale.is_broken());
    assert!(bench.waiting().await.is_empty());
}
