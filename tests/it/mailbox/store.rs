//! The connection: time-outs, other time lines, replicas, and who waits for it.

use std::time::{Duration, Instant};

use catchup::mailbox::MailboxError;
use catchup::protocol::Lane;
use redis::AsyncCommands;

use super::Bench;
use crate::support::eventually;

#[tokio::test]
async fn a_call_that_timed_out_may_run_later_and_its_repeat_stores_nothing_more() {
    let bench = Bench::own(|_| ()).await;
    let batch = [1, 2].map(|sequence| bench.append_of(Lane::Normal, sequence));
    bench.server().pause();
    for outcome in bench.link.append(&batch).await {
        assert!(
            matches!(outcome, Err(MailboxError::Unreachable(_))),
            "{outcome:?}"
        );
    }
    assert!(bench.link.is_broken());
    assert!(bench.store.link().is_none());
    bench.server().resume();
    let link = eventually("a new connection", async || {
        bench.store.connect().await.ok()
    })
    .await;
    assert!(link.is_young(), "so appends look for the entry first");
    eventually("the command that timed out", async || {
        (bench.waiting().await.len() == 2).then_some(())
    })
    .await;
    for outcome in link.append_once(&batch).await {
        assert!(outcome.unwrap().repeated);
    }
    assert_eq!(bench.waiting().await, [1, 2]);
}

#[tokio::test]
async fn a_server_that_became_a_replica_breaks_the_link() {
    for is_script in [false, true] {
        let bench = Bench::own(|_| ()).await;
        let batch = [bench.append_of(Lane::Normal, 1)];
        let mut command = redis::cmd("REPLICAOF");
        command.arg("127.0.0.1").arg("1");
        let _: () = command.query_async(&mut bench.redis()).await.unwrap();
        let outcome = match is_script {
            false => bench.link.append(&batch).await.remove(0),
            true => bench.link.append_once(&batch).await.remove(0),
        };
        assert!(
            matches!(&outcome, Err(MailboxError::Refusing(text)) if text.starts_with("READONLY")),
            "{outcome:?}"
        );
        assert!(bench.link.is_broken());
        let refused = bench.store.connect().await.err();
        assert!(
            matches!(refused, Some(MailboxError::Refusing(_))),
            "{refused:?}"
        );
    }
}

#[tokio::test]
async fn those_who_wait_for_a_connection_learn_of_one_failure_together() {
    let bench = Bench::own(|_| ()).await;
    bench.server().kill();
    let _ = bench.link.append(&[bench.append_of(Lane::Normal, 1)]).await;
    let start = Instant::now();
    let calls = (0..200).map(|_| bench.store.connect());
    for outcome in futures_util::future::join_all(calls).await {
        assert!(matches!(outcome, Err(MailboxError::Unreachable(_))));
    }
    // One by one, with the growing wait between, it would be minutes.
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "{:?}",
        start.elapsed()
    );
    bench.server().start_again();
    eventually("a new connection", async || {
        bench.store.connect().await.ok()
    })
    .await;
}

#[tokio::test]
async fn a_server_that_may_drop_messages_is_refused() {
    let bench = Bench::own(|_| ()).await;
    let _: () = redis::cmd("CONFIG")
        .arg("SET")
        .arg("maxmemory-policy")
        .arg("allkeys-lru")
        .query_async(&mut bench.redis())
        .await
        .unwrap();
    bench.server().kill();
    let _ = bench.link.append(&[bench.append_of(Lane::Normal, 1)]).await;
    bench.server().start_again();
    let _: () = eventually("Redis answers", async || {
        let client = redis::Client::open(bench.server().url()).unwrap();
        let mut redis = client.get_multiplexed_async_connection().await.ok()?;
        let mut command = redis::cmd("CONFIG");
        command
            .arg("SET")
            .arg("maxmemory-policy")
            .arg("allkeys-lru");
        command.query_async(&mut redis).await.ok()
    })
    .await;
    let refused = eventually("the refusal", async || match bench.store.connect().await {
        Err(MailboxError::Unsuitable(text)) => Some(text),
        _ => None,
    })
    .await;
    assert!(refused.contains("noeviction"), "{refused}");
}

#[tokio::test]
async fn the_time_line_is_that_of_the_connection() {
    let mut bench = Bench::own(|_| ()).await;
    let stale = bench.link.clone();
    let start = bench.register("phone").await.start;
    bench.append([1]).await;
    bench.change_epoch().await;
    let current = bench.link.epoch();
    let refused = stale.register(&bench.user, &bench.request("phone")).await;
    assert_eq!(refused, Err(MailboxError::EpochChanged { current }));
    assert!(stale.is_broken());
    // Positions of before are none any more, however the data stayed.
    let call = bench.link.acknowledge(&bench.user, "phone", &start);
    assert_eq!(call.await, Err(MailboxError::EpochChanged { current }));
    assert!(!bench.link.is_broken());
    let length: u64 = bench.redis().llen(bench.key(Lane::Normal)).await.unwrap();
    assert_eq!(length, 1);
}
