//! A store that lost what it held: who makes it whole, and what its mailboxes are then.

use catchup::mailbox::{Append, Claim, Claimed, Progress, Rebuild, RebuildKind};
use catchup::protocol::Lane;
use redis::AsyncCommands;
use uuid::Uuid;

use super::{Bench, after, sequences};

fn rebuild(name: &str, kind: RebuildKind) -> Rebuild {
    let progress = Progress {
        kind,
        next: 0,
        last: 100,
    };
    Rebuild {
        name: name.to_owned(),
        progress,
        silent: None,
        slots: None,
    }
}

async fn restore(bench: &Bench, work: &Rebuild, sequences: impl IntoIterator<Item = u64>) -> u64 {
    let batch: Vec<Append> = (sequences.into_iter())
        .map(|sequence| bench.append_of(Lane::Normal, sequence))
        .collect();
    bench.link.restore(work, &batch).await.unwrap()
}

#[tokio::test]
async fn what_is_brought_twice_is_there_once() {
    let bench = Bench::start().await;
    let work = rebuild("one", RebuildKind::Empty);
    assert_eq!(restore(&bench, &work, 1..=300).await, 300);
    assert_eq!(restore(&bench, &work, 200..=310).await, 10);
    // Another rebuild does not know what this one brought.
    let again = rebuild("two", RebuildKind::Empty);
    assert_eq!(restore(&bench, &again, 1..=311).await, 1);
    assert_eq!(bench.waiting().await, (1..=311).collect::<Vec<_>>());
    let repeat = bench.append_once(&bench.append_of(Lane::Normal, 20)).await;
    assert!(repeat.unwrap().repeated);
}

#[tokio::test]
async fn what_came_before_the_emptying_was_noticed_is_put_in_order() {
    let bench = Bench::start().await;
    bench.append([5, 9]).await;
    let work = rebuild("one", RebuildKind::Empty);
    assert_eq!(restore(&bench, &work, 1..=3).await, 3);
    assert_eq!(restore(&bench, &work, 4..=10).await, 5);
    assert_eq!(bench.waiting().await, (1..=10).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_device_that_trimmed_an_emptied_mailbox_does_so_for_nobody_else() {
    let bench = Bench::start().await;
    bench.append([5]).await;
    let mut request = bench.request("phone");
    let registered = bench.register_with(&request).await;
    let position = after(registered.start, &registered.page);
    bench.acknowledge("phone", &position).await;
    assert!(bench.waiting().await.is_empty());

    let work = rebuild("one", RebuildKind::Empty);
    assert_eq!(restore(&bench, &work, 1..=5).await, 5);
    assert_eq!(bench.waiting().await, [1, 2, 3, 4, 5]);
    // The connection registers again, since its mailbox has another life.
    request.order = Some(registered.order);
    request.session_life = Some(registered.start.life);
    request.cursor = Some(position);
    let registered = bench.register_with(&request).await;
    assert!(registered.store_lost);
    assert_eq!(sequences(&registered.page), [1, 2, 3, 4, 5]);
    // What is brought after that goes on in this life.
    assert_eq!(restore(&bench, &work, 6..=7).await, 2);
    let page = bench
        .page("phone", &after(registered.start, &registered.page))
        .await;
    assert_eq!(sequences(&page), [6, 7]);
}

#[tokio::test]
async fn a_store_that_went_back_gets_only_what_is_missing() {
    let bench = Bench::start().await;
    bench.append(1..=4).await;
    let registered = bench.register("phone").await;
    let mut position = after(registered.start, &registered.page);
    position.places.own = [2, 0];
    bench.acknowledge("phone", &position).await;
    let work = rebuild("one", RebuildKind::Back);
    assert_eq!(restore(&bench, &work, 1..=6).await, 2);
    assert_eq!(bench.waiting().await, [3, 4, 5, 6]);
    assert_eq!(restore(&bench, &work, 1..=7).await, 1);
    let page = bench.page("phone", &position).await;
    assert_eq!(sequences(&page), [3, 4, 5, 6, 7], "its places still hold");
}

#[tokio::test]
async fn one_worker_at_a_time_makes_a_store_whole() {
    let mut bench = Bench::own(|_| ()).await;
    let id = Uuid::now_v7();
    let claim = |worker, delivered| Claim {
        id,
        worker,
        delivered,
        is_first_id: false,
        is_doubtful: false,
    };
    assert_eq!(bench.link.claim(&claim("a", 0)).await, Ok(Claimed::First));
    assert_eq!(bench.link.claim(&claim("a", 9)).await, Ok(Claimed::Whole));
    let record = bench.link.keys().store("");
    let _: () = bench.redis.hset(&record, "floor", 7).await.unwrap();

    bench.change_epoch().await;
    let nothing_after = bench.link.claim(&claim("a", 7)).await;
    assert_eq!(nothing_after, Ok(Claimed::Whole));
    bench.change_epoch().await;
    let Ok(Claimed::Yours(work)) = bench.link.claim(&claim("a", 9)).await else {
        panic!("events after the floor may be missing");
    };
    let progress = Progress {
        kind: RebuildKind::Back,
        next: 8,
        last: 9,
    };
    assert_eq!(work.progress, progress);
    let busy = bench.link.claim(&claim("b", 9)).await;
    assert_eq!(busy, Ok(Claimed::Busy(progress)));
    assert!(bench.link.advance("a", &work, 9, None).await.unwrap());
    // The lease of a worker that died.
    let _: () = bench
        .redis()
        .hset(&record, "rebuild:until", 1)
        .await
        .unwrap();
    let Ok(Claimed::Yours(taken)) = bench.link.claim(&claim("b", 9)).await else {
        panic!("the lease ran out");
    };
    assert_eq!((taken.progress.next, &taken.name), (9, &work.name));
    assert!(!bench.link.advance("a", &work, 10, Some(id)).await.unwrap());
    assert!(bench.link.advance("b", &taken, 10, Some(id)).await.unwrap());
    assert_eq!(bench.link.claim(&claim("a", 9)).await, Ok(Claimed::Whole));

    let _: () = bench.redis().del(&record).await.unwrap();
    let Ok(Claimed::Yours(work)) = bench.link.claim(&claim("a", 9)).await else {
        panic!("it was emptied");
    };
    assert_eq!(work.progress.kind, RebuildKind::Empty);
    assert!(bench.link.advance("a", &work, 10, Some(id)).await.unwrap());
    let other = Claim {
        id: Uuid::now_v7(),
        ..claim("a", 0)
    };
    assert_eq!(bench.link.claim(&other).await, Ok(Claimed::OtherStream));
}
