//! `append`: one `MULTI` a batch, then expiries and the cap.

use std::time::Duration;

use catchup::event::UserId;
use catchup::mailbox::{Append, Connection, MailboxError};
use catchup::protocol::Lane;
use redis::AsyncCommands;

use super::{Bench, HOUR_MS, entry, now_ms};

const DAY_MS: i64 = 24 * 3_600_000;

#[tokio::test]
async fn each_lane_counts_its_own_places() {
    let bench = Bench::start().await;
    let batch = [
        bench.append_of(Lane::Normal, 1),
        bench.append_of(Lane::High, 2),
        bench.append_of(Lane::Normal, 3),
    ];
    let appended = bench.append_all(&batch).await;
    let places: Vec<u64> = appended.iter().map(|one| one.place).collect();
    assert_eq!(places, [1, 1, 2]);
    assert_eq!(bench.waiting_in(Lane::Normal).await, [1, 3]);
    assert_eq!(bench.waiting_in(Lane::High).await, [2]);
}

#[tokio::test]
async fn a_batch_of_many_transactions_keeps_its_order() {
    let bench = Bench::start().await;
    let users = ["ann", "bob", "eve"].map(|name| UserId::parse(name).unwrap());
    let batch: Vec<Append> = (0..900)
        .map(|index| Append {
            user: users[index % 3].clone(),
            lane: Lane::Normal,
            entry: entry(index as u64, now_ms() + HOUR_MS),
        })
        .collect();
    let appended = bench.append_all(&batch).await;
    for (index, one) in appended.iter().enumerate() {
        assert_eq!(one.place, index as u64 / 3 + 1);
    }
    assert!(bench.waiting().await.is_sorted());
}

#[tokio::test]
async fn it_says_where_the_user_is_connected() {
    let bench = Bench::start().await;
    let offline = bench.append([1]).await.remove(0);
    assert_eq!((offline.life, offline.connections), (None, vec![]));
    let request = bench.request("phone");
    let registered = bench.register_with(&request).await;
    let online = bench.append([2]).await.remove(0);
    assert_eq!(online.life, Some(registered.start.life));
    let expected = Connection {
        device: "phone".to_owned(),
        node: "node".to_owned(),
        incarnation: "first".to_owned(),
        number: request.connection.number,
        order: registered.order,
    };
    assert_eq!(online.connections, [expected]);
}

#[tokio::test]
async fn past_the_cap_the_oldest_are_evicted_and_counted_once() {
    let bench = Bench::with(|config| config.cap = 3).await;
    let appended = bench.append(1..=5).await;
    assert_eq!(appended.iter().map(|one| one.evicted).sum::<u64>(), 2);
    assert_eq!(bench.waiting().await, [3, 4, 5]);
    assert_eq!(bench.append([6]).await[0].evicted, 1);
    let page = bench.register("phone").await.page;
    assert_eq!((page.evicted, page.expired, page.before), (3, 0, 3));
}

#[tokio::test]
async fn each_lane_has_its_own_cap() {
    let bench = Bench::with(|config| config.cap = 2).await;
    let high = [1, 2].map(|sequence| bench.append_of(Lane::High, sequence));
    bench.append_all(&high).await;
    bench.append(3..=5).await;
    assert_eq!(bench.waiting_in(Lane::High).await, [1, 2]);
    assert_eq!(bench.waiting().await, [4, 5]);
}

#[tokio::test]
async fn what_expired_at_the_head_is_not_evicted() {
    let bench = Bench::with(|config| config.cap = 2).await;
    bench
        .append_all(&[bench.expired(1), bench.expired(2)])
        .await;
    assert_eq!(bench.append([3, 4]).await[0].evicted, 0);
    let page = bench.register("phone").await.page;
    assert_eq!((page.evicted, page.expired, page.before), (0, 2, 2));
}

#[tokio::test]
async fn a_list_lives_twice_as_long_as_its_messages_and_the_hash_longer() {
    let bench = Bench::start().await;
    bench.append([1]).await;
    let list: i64 = bench.redis().pttl(bench.key(Lane::Normal)).await.unwrap();
    assert!((2 * DAY_MS - 60_000..=2 * DAY_MS).contains(&list), "{list}");
    let hash: i64 = bench.redis().pttl(bench.hash()).await.unwrap();
    assert!((7 * DAY_MS - 60_000..=7 * DAY_MS).contains(&hash), "{hash}");
}

#[tokio::test]
async fn an_old_head_does_not_take_a_young_message_with_it() {
    let bench = Bench::with(|config| config.ttl = Duration::from_millis(HOUR_MS)).await;
    bench.append([1]).await;
    bench.pass(Duration::from_millis(HOUR_MS * 3 / 2)).await;
    bench.append([2]).await;
    // More than two hours after the first, less than one after the second.
    bench.pass(Duration::from_millis(HOUR_MS * 3 / 4)).await;
    let page = bench.register("phone").await.page;
    assert_eq!((page.expired, page.entries.len()), (1, 1));
}

#[tokio::test]
async fn an_expiry_that_a_wrong_clock_set_is_renewed() {
    let bench = Bench::start().await;
    bench.append([1]).await;
    let far = now_ms() + 10 * DAY_MS.unsigned_abs();
    let _: () = (bench.redis().hset(bench.hash(), "expiry:normal", far).await).unwrap();
    let _: () = (bench.redis().pexpire(bench.key(Lane::Normal), 60_000).await).unwrap();
    bench.append([2]).await;
    let list: i64 = bench.redis().pttl(bench.key(Lane::Normal)).await.unwrap();
    assert!(list > DAY_MS, "{list}");
}

#[tokio::test]
async fn a_failing_user_harms_nobody_else_and_is_not_tried_further() {
    let bench = Bench::start().await;
    let _: () = bench
        .redis()
        .set(bench.key(Lane::Normal), "junk")
        .await
        .unwrap();
    let bob = UserId::parse("bob").unwrap();
    let mut batch: Vec<Append> = (0..300)
        .map(|sequence| Append {
            user: bob.clone(),
            ..bench.append_of(Lane::Normal, sequence)
        })
        .collect();
    batch[0].user = bench.user.clone();
    batch[299].user = bench.user.clone();
    let outcomes = bench.link.append(&batch).await;
    assert_eq!(outcomes[0], Err(MailboxError::Damaged));
    assert_eq!(outcomes[299], Err(MailboxError::Skipped));
    assert!(outcomes[1..299].iter().all(Result::is_ok));
}

#[tokio::test]
async fn without_memory_nothing_is_stored_and_the_link_stays() {
    let bench = Bench::own(|_| ()).await;
    bench.append([1]).await;
    let mut redis = bench.redis();
    let memory = async |limit: &str| {
        let mut command = redis::cmd("CONFIG");
        command.arg("SET").arg("maxmemory").arg(limit);
        let _: () = command.query_async(&mut bench.redis()).await.unwrap();
    };
    memory("1").await;
    let batch = [2, 3].map(|sequence| bench.append_of(Lane::Normal, sequence));
    for outcome in bench.link.append(&batch).await {
        assert!(
            matches!(&outcome, Err(MailboxError::Refusing(text)) if text.starts_with("OOM")),
            "{outcome:?}"
        );
    }
    let outcome = bench.append_once(&batch[0]).await;
    assert!(
        matches!(&outcome, Err(MailboxError::Refusing(text)) if text.starts_with("OOM")),
        "{outcome:?}"
    );
    assert!(!bench.link.is_broken());
    memory("0").await;
    let last: u64 = redis.hget(bench.hash(), "last:normal").await.unwrap();
    assert_eq!((last, bench.waiting().await), (1, vec![1]));
    assert_eq!(bench.append([2]).await[0].place, 2);
}
