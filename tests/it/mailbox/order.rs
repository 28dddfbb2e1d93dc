//! What waits is sent in event-time order, whatever order workers appended it in, and a place
//! that a device may know keeps its meaning.

use catchup::protocol::Lane;
use redis::AsyncCommands;

use super::{Bench, after, at, page_of, sequences};

/// Two workers that were each behind with half of the events.
fn interleaved(count: u64) -> Vec<u64> {
    let odd = (1..=count).step_by(2);
    odd.chain((2..=count).step_by(2)).collect()
}

#[tokio::test]
async fn a_deep_backlog_of_two_workers_is_read_in_order() {
    let bench = Bench::start().await;
    bench.append(interleaved(500)).await;
    let registered = bench.register("phone").await;
    let (mut page, mut position) = (registered.page, registered.start);
    let mut seen = Vec::new();
    while page.lane.is_some() {
        seen.extend(sequences(&page));
        position = after(position, &page);
        page = bench.page("phone", &position).await;
    }
    assert_eq!(seen, Vec::from_iter(1..=500));
}

#[tokio::test]
async fn each_lane_is_put_in_order_and_keeps_its_expiry() {
    let bench = Bench::start().await;
    let high: Vec<_> = (interleaved(9).into_iter())
        .map(|sequence| bench.append_of(Lane::High, sequence))
        .collect();
    bench.append_all(&high).await;
    bench.append(interleaved(6)).await;
    bench.register("phone").await;
    assert_eq!(bench.waiting_in(Lane::High).await, Vec::from_iter(1..=9));
    assert_eq!(bench.waiting().await, Vec::from_iter(1..=6));
    for lane in Lane::ALL {
        let left: i64 = bench.redis().pttl(bench.key(lane)).await.unwrap();
        assert!(left > 3_600_000, "{left}");
    }
}

#[tokio::test]
async fn what_a_device_was_sent_keeps_its_place() {
    let bench = Bench::start().await;
    bench.append([1, 5]).await;
    // It was sent both and acknowledged neither.
    bench.visit("phone").await;
    bench.append([4, 3]).await;
    bench.visit("phone").await;
    assert_eq!(bench.waiting().await, [1, 5, 3, 4]);
    bench.append([2]).await;
    bench.visit("phone").await;
    assert_eq!(bench.waiting().await, [1, 5, 3, 4, 2]);
}

#[tokio::test]
async fn what_a_further_device_is_past_keeps_its_place() {
    let bench = Bench::start().await;
    bench.visit("phone").await;
    bench.append([2, 3]).await;
    let laptop = bench.request("laptop");
    let start = bench.register_with(&laptop).await.start;
    assert_eq!(start.places.of(Lane::Normal), 2);
    bench.unregister(&laptop.connection).await;
    bench.append([1]).await;
    let page = bench.register("laptop").await.page;
    assert_eq!(sequences(&page), [1]);
    assert_eq!(bench.waiting().await, [2, 3, 1]);
}

#[tokio::test]
async fn nothing_moves_while_the_user_is_connected() {
    let bench = Bench::start().await;
    bench.register("phone").await;
    bench.append([2, 1]).await;
    bench.register("laptop").await;
    assert_eq!(bench.waiting().await, [2, 1]);
}

#[tokio::test]
async fn what_a_session_that_was_taken_for_dead_read_keeps_its_place() {
    let bench = Bench::start().await;
    let start = bench.register("phone").await.start;
    bench
        .link
        .drop_node(&bench.user, "node", "first")
        .await
        .unwrap();
    bench.append([3, 2]).await;
    // It lives, and reads on before it asserts its connection again.
    assert_eq!(sequences(&bench.page("phone", &start).await), [2, 3]);
    bench.append([1]).await;
    bench.register("phone").await;
    assert_eq!(bench.waiting().await, [3, 2, 1]);
}

#[tokio::test]
async fn a_page_is_cut_where_the_order_allows_it() {
    let bench = Bench::start().await;
    let start = bench.register("phone").await.start;
    bench.append([1, 2, 4, 3, 5]).await;
    let read = async |messages_max, place| {
        let position = at(&start, place);
        let read = bench
            .link
            .page(&bench.user, "phone", &position, page_of(messages_max));
        sequences(&read.await.unwrap().1)
    };
    // Cut at three, the page would end with 4 and the next one begin with 3.
    assert_eq!(read(3, 0).await, [1, 2]);
    assert_eq!(read(4, 0).await, [1, 2, 3, 4]);
    assert_eq!(read(1, 2).await, [4], "no cut keeps the order");
}
