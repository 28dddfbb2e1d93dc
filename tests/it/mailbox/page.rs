//! `page`: what is missing, then what waits, without a hole between.

use std::time::Duration;

use catchup::mailbox::{MailboxError, PageRequest};
use catchup::protocol::{Lane, Position};
use redis::AsyncCommands;

use super::{Bench, HOUR_MS, after, another_epoch, another_life, at, now_ms, page_of, sequences};

#[tokio::test]
async fn pages_follow_each_other_to_the_end() {
    let bench = Bench::start().await;
    bench.append(1..=150).await;
    let registered = bench.register("phone").await;
    assert_eq!(registered.pending, 150);
    let mut page = registered.page;
    let mut position = registered.start;
    let mut seen = Vec::new();
    while page.lane.is_some() {
        assert!(page.entries.len() <= 64);
        assert_eq!(page.before, position.places.of(Lane::Normal));
        seen.extend(sequences(&page));
        position = after(position, &page);
        page = bench.page("phone", &position).await;
    }
    assert_eq!(seen, Vec::from_iter(1..=150));
}

#[tokio::test]
async fn high_priority_comes_first() {
    let bench = Bench::start().await;
    bench.append(1..=2).await;
    bench.append_all(&[bench.append_of(Lane::High, 3)]).await;
    let registered = bench.register("phone").await;
    assert_eq!(registered.page.lane, Some(Lane::High));
    let position = after(registered.start, &registered.page);
    let page = bench.page("phone", &position).await;
    assert_eq!(
        (page.lane, sequences(&page)),
        (Some(Lane::Normal), vec![1, 2])
    );
}

#[tokio::test]
async fn a_page_ends_at_its_bytes_but_has_one_message() {
    let bench = Bench::start().await;
    bench.append(1..=4).await;
    let position = bench.register("phone").await.start;
    let read = async |bytes_max| {
        let request = PageRequest {
            messages_max: 64,
            bytes_max,
        };
        let read = bench.link.page(&bench.user, "phone", &position, request);
        read.await.unwrap().1.entries.len()
    };
    let entry_bytes = bench.append_of(Lane::Normal, 1).entry.as_str().len();
    assert_eq!(read(1).await, 1);
    assert_eq!(read(entry_bytes).await, 1);
    assert_eq!(read(3 * entry_bytes).await, 3);
    assert_eq!(read(3 * entry_bytes + 1).await, 3);
    assert_eq!(read(100 * entry_bytes).await, 4);
}

#[tokio::test]
async fn what_expired_between_others_is_told_with_its_page() {
    let bench = Bench::start().await;
    let batch = [
        bench.append_of(Lane::Normal, 1),
        bench.expired(2),
        bench.expired(3),
        bench.append_of(Lane::Normal, 4),
    ];
    bench.append_all(&batch).await;
    let registered = bench.register("phone").await;
    assert_eq!(sequences(&registered.page), [1]);
    let position = after(registered.start, &registered.page);
    let page = bench.page("phone", &position).await;
    assert_eq!((page.evicted, page.expired, page.before), (0, 2, 3));
    assert_eq!(sequences(&page), [4]);
}

#[tokio::test]
async fn expired_heads_leave_the_list_and_are_told() {
    let bench = Bench::start().await;
    let position = bench.register("phone").await.start;
    bench
        .append_all(&[bench.expired(1), bench.expired(2)])
        .await;
    bench.append([3]).await;
    let page = bench.page("phone", &position).await;
    assert_eq!(
        (page.expired, page.before, sequences(&page)),
        (2, 2, vec![3])
    );
    assert_eq!(bench.waiting().await, [3]);
    assert_eq!(bench.page("phone", &position).await, page, "told again");
}

#[tokio::test]
async fn a_tail_that_expired_is_a_page_without_messages() {
    let bench = Bench::start().await;
    let position = bench.register("phone").await.start;
    bench
        .append_all(&[bench.expired(1), bench.expired(2)])
        .await;
    let page = bench.page("phone", &position).await;
    assert_eq!(page.lane, Some(Lane::Normal));
    assert_eq!((page.expired, page.before, page.entries.len()), (2, 2, 0));
    let page = bench.page("phone", &at(&position, 2)).await;
    assert_eq!(page.lane, None);
}

#[tokio::test]
async fn places_up_to_the_last_evicted_one_were_evicted_and_later_ones_expired() {
    let bench = Bench::with(|config| config.cap = 2).await;
    bench.append(1..=4).await;
    let soon = bench.expiring(Lane::Normal, 5, now_ms() + HOUR_MS / 2);
    bench.append_all(&[soon]).await;
    bench.pass(Duration::from_millis(HOUR_MS * 2)).await;
    bench.append([6]).await;
    let page = bench.register("phone").await.page;
    assert_eq!((page.evicted, page.expired, page.before), (3, 2, 5));
    assert_eq!(sequences(&page), [6]);
}

#[tokio::test]
async fn when_the_whole_list_expired_every_place_is_told() {
    let bench = Bench::start().await;
    let position = bench.register("phone").await.start;
    bench.append(1..=5).await;
    let _: () = bench.redis().del(bench.key(Lane::Normal)).await.unwrap();
    let page = bench.page("phone", &position).await;
    assert_eq!((page.expired, page.before, page.entries.len()), (5, 5, 0));
    bench.append([6]).await;
    let page = bench.page("phone", &position).await;
    assert_eq!(
        (page.expired, page.before, sequences(&page)),
        (5, 5, vec![6])
    );
}

#[tokio::test]
async fn what_is_no_entry_is_told_as_expired() {
    let bench = Bench::start().await;
    let position = bench.register("phone").await.start;
    bench.append([1]).await;
    let list = bench.key(Lane::Normal);
    let _: () = bench.redis().lset(&list, 0, "junk").await.unwrap();
    bench.append([2]).await;
    let page = bench.page("phone", &position).await;
    assert_eq!((page.expired, sequences(&page)), (1, vec![2]));
}

#[tokio::test]
async fn the_counters_and_the_stores_clock_come_with_a_page() {
    let bench = Bench::start().await;
    let position = bench.register("phone").await.start;
    bench.append(1..=3).await;
    bench.append_all(&[bench.append_of(Lane::High, 4)]).await;
    let read = bench.link.page(&bench.user, "phone", &position, page_of(1));
    let (counters, _) = read.await.unwrap();
    assert_eq!(counters.last, [3, 1]);
    assert!(counters.now_ms.abs_diff(now_ms()) < 60_000);
}

#[tokio::test]
async fn a_page_says_what_the_device_acknowledged_on_another_connection() {
    let bench = Bench::start().await;
    bench.append(1..=3).await;
    let start = bench.register("phone").await.start;
    let mut position = at(&start, 2);
    position.time_ms = 7;
    bench.acknowledge("phone", &position).await;
    let read = bench.link.page(&bench.user, "phone", &start, page_of(64));
    let (counters, page) = read.await.unwrap();
    assert_eq!(
        (counters.acknowledged, counters.acknowledged_ms),
        ([2, 0], 7)
    );
    assert_eq!((page.expired, sequences(&page)), (2, vec![3]));
}

#[tokio::test]
async fn a_page_of_another_mailbox_or_time_line_is_refused_and_the_link_stays() {
    let bench = Bench::start().await;
    let start = bench.register("phone").await.start;
    let read = async |position: Position, device: &str| {
        let read = bench.link.page(&bench.user, device, &position, page_of(1));
        read.await.unwrap_err()
    };
    let other = Position {
        life: another_life(start.life),
        ..start
    };
    assert_eq!(read(other, "phone").await, MailboxError::LifeChanged);
    assert_eq!(read(start, "laptop").await, MailboxError::UnknownDevice);
    let other = Position {
        epoch: another_epoch(),
        ..start
    };
    let current = bench.link.epoch();
    assert_eq!(
        read(other, "phone").await,
        MailboxError::EpochChanged { current }
    );
    // The position is of another time line, not the connection.
    assert!(!bench.link.is_broken());
}
