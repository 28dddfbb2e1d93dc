//! `register`: where a device starts, what it is told, and which connection it replaces.

use std::time::Duration;

use catchup::mailbox::{ConnectionId, DEVICES_MAX, MailboxError, Register};
use catchup::protocol::{Everyone, Lane, Position};
use redis::AsyncCommands;

use super::{Bench, HOUR_MS, after, another_epoch, another_life, at, sequences};

const DAY: Duration = Duration::from_secs(24 * 3600);

#[tokio::test]
async fn the_first_device_gets_all_and_is_told_what_the_cap_removed_before() {
    let bench = Bench::with(|config| config.cap = 2).await;
    bench.append(1..=5).await;
    let registered = bench.register("phone").await;
    assert_eq!(registered.start.places.own, [0, 0]);
    assert_eq!((registered.page.evicted, registered.pending), (3, 2));
    assert_eq!(sequences(&registered.page), [4, 5]);
}

#[tokio::test]
async fn a_further_device_starts_at_the_present() {
    let bench = Bench::start().await;
    bench.append(1..=2).await;
    bench.register("phone").await;
    let registered = bench.register("laptop").await;
    assert_eq!(registered.start.places.of(Lane::Normal), 2);
    assert_eq!((registered.pending, registered.page.lane), (0, None));
    bench.append([3]).await;
    assert_eq!(
        sequences(&bench.page("laptop", &registered.start).await),
        [3]
    );
}

#[tokio::test]
async fn a_device_that_never_acknowledges_holds_the_trim() {
    let bench = Bench::start().await;
    let phone = bench.register("phone").await;
    let laptop = bench.register("laptop").await;
    bench.append([1]).await;
    bench.acknowledge("phone", &at(&phone.start, 1)).await;
    assert_eq!(bench.waiting().await, [1]);
    bench.acknowledge("laptop", &at(&laptop.start, 1)).await;
    assert!(bench.waiting().await.is_empty());
}

#[tokio::test]
async fn a_device_goes_on_from_what_it_acknowledged() {
    let bench = Bench::start().await;
    bench.append(1..=3).await;
    let start = bench.register("phone").await.start;
    bench.acknowledge("phone", &at(&start, 2)).await;
    let registered = bench.register("phone").await;
    assert_eq!(registered.start.places.of(Lane::Normal), 2);
    assert_eq!(sequences(&registered.page), [3]);
}

#[tokio::test]
async fn a_cursor_acknowledges() {
    let bench = Bench::start().await;
    bench.append(1..=3).await;
    let start = bench.visit("phone").await.start;
    let mut cursor = at(&start, 2);
    cursor.time_ms = 77;
    let registered = bench
        .register_with(&with_cursor(&bench, "phone", cursor))
        .await;
    assert_eq!(registered.start.places.of(Lane::Normal), 2);
    assert_eq!(registered.start.time_ms, 77);
    assert_eq!(bench.waiting().await, [3]);
    // An older one changes nothing.
    let registered = bench
        .register_with(&with_cursor(&bench, "phone", at(&start, 1)))
        .await;
    assert_eq!(registered.start.places.of(Lane::Normal), 2);
}

#[tokio::test]
async fn a_cursor_that_proves_nothing_moves_nothing() {
    let bench = Bench::start().await;
    bench.append(1..=3).await;
    let start = bench.visit("phone").await.start;
    let mut forged = at(&start, 4);
    let mut huge = at(&start, 1);
    huge.places.everyone.sequence = u64::MAX;
    let mut other = at(&start, 3);
    other.epoch = another_epoch();
    for cursor in [forged, huge, other] {
        let registered = bench
            .register_with(&with_cursor(&bench, "phone", cursor))
            .await;
        assert_eq!(registered.start.places.own, [0, 0]);
        assert!(!registered.store_lost);
    }
    forged.places.own = [u64::MAX, u64::MAX];
    let laptop = bench
        .register_with(&with_cursor(&bench, "laptop", forged))
        .await;
    assert_eq!(laptop.start.places.of(Lane::Normal), 3, "a new device");
}

#[tokio::test]
async fn store_lost_is_owed_until_an_acknowledgement_proves_that_it_was_told() {
    let bench = Bench::start().await;
    bench.append([1]).await;
    let start = bench.visit("phone").await.start;
    let mut lost = at(&start, 1);
    lost.life = another_life(start.life);
    let registered = bench
        .register_with(&with_cursor(&bench, "phone", lost))
        .await;
    assert!(registered.store_lost);
    assert_eq!(sequences(&registered.page), [1]);
    // The frame was lost; the client comes with the cursor of its welcome.
    let cursor = registered.start;
    assert!(
        bench
            .register_with(&with_cursor(&bench, "phone", cursor))
            .await
            .store_lost
    );
    bench.acknowledge("phone", &cursor).await;
    assert!(bench.register("phone").await.store_lost);
    let told = Position {
        store_lost_told: true,
        ..cursor
    };
    bench.acknowledge("phone", &told).await;
    assert!(!bench.register("phone").await.store_lost);
}

#[tokio::test]
async fn a_cursor_that_proves_it_was_told_settles_store_lost() {
    let bench = Bench::start().await;
    let start = bench.visit("phone").await.start;
    let lost = Position {
        life: another_life(start.life),
        ..start
    };
    bench
        .register_with(&with_cursor(&bench, "phone", lost))
        .await;
    let told = Position {
        store_lost_told: true,
        ..start
    };
    assert!(
        !bench
            .register_with(&with_cursor(&bench, "phone", told))
            .await
            .store_lost
    );
    assert!(!bench.register("phone").await.store_lost);
}

#[tokio::test]
async fn an_owed_store_lost_outlasts_the_time_to_live() {
    let bench = Bench::start().await;
    let start = bench.visit("phone").await.start;
    let lost = Position {
        life: another_life(start.life),
        ..start
    };
    let request = with_cursor(&bench, "phone", lost);
    let cursor = bench.register_with(&request).await.start;
    bench.unregister(&request.connection).await;
    bench.pass(2 * DAY).await;
    assert!(
        bench
            .register_with(&with_cursor(&bench, "phone", cursor))
            .await
            .store_lost
    );
}

#[tokio::test]
async fn the_mailbox_was_lost_for_a_cursor_of_another_life_even_where_nothing_is_left() {
    let bench = Bench::start().await;
    let start = bench.visit("phone").await.start;
    let _: () = bench.redis().del(bench.hash()).await.unwrap();
    bench.append([1]).await;
    let registered = bench
        .register_with(&with_cursor(&bench, "phone", start))
        .await;
    assert!(registered.store_lost);
    assert_ne!(registered.start.life, start.life);
    assert_eq!(sequences(&registered.page), [1]);
}

#[tokio::test]
async fn without_cursor_and_record_a_device_is_simply_new() {
    let bench = Bench::start().await;
    bench.visit("phone").await;
    let _: () = bench.redis().del(bench.hash()).await.unwrap();
    assert!(!bench.register("phone").await.store_lost);
}

#[tokio::test]
async fn a_device_that_comes_back_late_with_its_cursor_is_told_what_is_gone() {
    let bench = Bench::with(|config| config.cap = 3).await;
    bench.append([1]).await;
    let phone = bench.visit("phone").await;
    let cursor = after(phone.start, &phone.page);
    let laptop = bench.request("laptop");
    let registered = bench.register_with(&laptop).await;
    let start = registered.start;
    bench.pass(2 * DAY).await;
    let call = bench.link.reassert(
        &bench.user,
        "laptop",
        &laptop.connection,
        registered.order,
        start.life,
    );
    call.await.unwrap();
    // Two evicted, one acknowledged by the other device, two that wait.
    bench.append(2..=6).await;
    bench.acknowledge("laptop", &at(&start, 4)).await;
    assert_eq!(bench.waiting().await, [5, 6]);
    let page = bench
        .register_with(&with_cursor(&bench, "phone", cursor))
        .await
        .page;
    assert_eq!((page.evicted, page.expired, page.before), (2, 1, 4));
    assert_eq!(sequences(&page), [5, 6]);
}

#[tokio::test]
async fn a_device_that_comes_back_late_without_its_cursor_is_a_new_one() {
    let bench = Bench::start().await;
    bench.visit("phone").await;
    bench.pass(2 * DAY).await;
    bench.register("laptop").await;
    bench.append([1]).await;
    let registered = bench.register("phone").await;
    assert_eq!(registered.start.places.of(Lane::Normal), 1);
}

#[tokio::test]
async fn an_only_device_that_comes_back_late_gets_all_that_waits() {
    let bench = Bench::start().await;
    bench.append(1..=2).await;
    let request = bench.request("phone");
    let start = bench.register_with(&request).await.start;
    bench.acknowledge("phone", &at(&start, 1)).await;
    bench.unregister(&request.connection).await;
    bench.pass(2 * DAY).await;
    bench.append([3]).await;
    let page = bench.register("phone").await.page;
    assert_eq!((page.expired, sequences(&page)), (1, vec![3]));
}

#[tokio::test]
async fn of_too_many_devices_the_one_longest_unseen_is_forgotten() {
    let bench = Bench::start().await;
    let first = bench.visit("device-0").await;
    bench.append([1]).await;
    for device in 1..DEVICES_MAX {
        bench.pass(Duration::from_secs(60)).await;
        bench.visit(&format!("device-{device}")).await;
    }
    assert_eq!(bench.waiting().await, [1]);
    bench.register("one-more").await;
    // The others started after it, so the message has no reader left.
    assert!(bench.waiting().await.is_empty());
    let page = bench
        .register_with(&with_cursor(&bench, "device-0", first.start))
        .await
        .page;
    assert_eq!((page.expired, page.entries.len()), (1, 0));
}

#[tokio::test]
async fn when_all_devices_are_connected_one_more_is_refused() {
    let bench = Bench::start().await;
    for device in 0..DEVICES_MAX {
        bench.register(&format!("device-{device}")).await;
    }
    let refused = bench
        .link
        .register(&bench.user, &bench.request("one-more"))
        .await;
    assert_eq!(refused, Err(MailboxError::TooManyDevices));
    bench.register("device-3").await;
}

#[tokio::test]
async fn the_newest_connection_replaces_the_older() {
    let bench = Bench::start().await;
    let older = bench.request("phone");
    let first = bench.register_with(&older).await;
    assert_eq!(first.replaced, None);
    let newer = bench.request("phone");
    let second = bench.register_with(&newer).await;
    assert_eq!(second.replaced, Some(older.connection.clone()));
    assert!(second.order > first.order);
    let connections = bench.append([1]).await.remove(0).connections;
    assert_eq!(connections.len(), 1);
    assert_eq!(connections[0].number, newer.connection.number);
    // The older one learns of it when it comes again.
    let again = Register {
        order: Some(first.order),
        ..older
    };
    let refused = bench.link.register(&bench.user, &again).await;
    assert_eq!(refused, Err(MailboxError::Replaced));
}

#[tokio::test]
async fn a_registration_that_comes_too_late_changes_nothing() {
    let bench = Bench::start().await;
    let first = bench.register("phone").await;
    let now_ms = first.counters.now_ms;
    let late = Register {
        until_ms: Some(now_ms - 1),
        ..bench.request("phone")
    };
    let outcome = bench.link.register(&bench.user, &late).await;
    let Err(MailboxError::Late { now_ms: told_ms }) = outcome else {
        panic!("{outcome:?}");
    };
    assert!(told_ms >= now_ms);
    let again = Register {
        until_ms: Some(told_ms + HOUR_MS),
        ..late
    };
    let second = bench.register_with(&again).await;
    assert!(second.order > first.order);
    assert!(
        second
            .replaced
            .is_some_and(|older| older != again.connection)
    );
}

#[tokio::test]
async fn a_repeat_gives_the_same_answer() {
    let bench = Bench::start().await;
    bench.append(1..=3).await;
    bench.register("phone").await;
    let request = bench.request("phone");
    let first = bench.register_with(&request).await;
    let mut second = bench.register_with(&request).await;
    assert!(first.replaced.is_some());
    second.counters.now_ms = first.counters.now_ms;
    assert_eq!(first, second);
}

#[tokio::test]
async fn a_repeat_that_comes_after_a_newer_connection_does_not_take_over() {
    let bench = Bench::start().await;
    let lost = bench.request("phone");
    bench.register_with(&lost).await;
    let mut newer = bench.request("phone");
    newer.connection = ConnectionId {
        node: "another".into(),
        ..newer.connection
    };
    bench.register_with(&newer).await;
    let refused = bench.link.register(&bench.user, &lost).await;
    assert_eq!(refused, Err(MailboxError::Replaced));
    // Of two connections of one process its own count decides, although the first was not seen.
    let (slow, fast) = (bench.request("laptop"), bench.request("laptop"));
    bench.register_with(&fast).await;
    let refused = bench.link.register(&bench.user, &slow).await;
    assert_eq!(refused, Err(MailboxError::Replaced));
}

#[tokio::test]
async fn registering_again_keeps_the_order() {
    let bench = Bench::start().await;
    let request = bench.request("phone");
    let first = bench.register_with(&request).await;
    let again = Register {
        order: Some(first.order),
        session_life: Some(first.start.life),
        ..request
    };
    let second = bench.register_with(&again).await;
    assert_eq!((second.order, second.replaced), (first.order, None));
    assert!(!second.store_lost);
}

#[tokio::test]
async fn a_session_of_a_lost_mailbox_is_told_and_gets_all_that_waits() {
    let bench = Bench::start().await;
    let mut request = bench.request("phone");
    let first = bench.register_with(&request).await;
    let _: () = bench.redis().del(bench.hash()).await.unwrap();
    bench.register("laptop").await;
    bench.append([1]).await;
    request.order = Some(first.order);
    request.session_life = Some(first.start.life);
    let second = bench.register_with(&request).await;
    assert!(second.store_lost);
    assert_eq!(sequences(&second.page), [1]);
}

#[tokio::test]
async fn what_an_append_stores_is_in_the_first_page_or_finds_the_connection() {
    let bench = Bench::start().await;
    for sequence in 1..=200 {
        let batch = [bench.append_of(Lane::Normal, sequence)];
        let request = bench.request("phone");
        let (appended, registered) = tokio::join!(
            bench.link.append(&batch),
            bench.link.register(&bench.user, &request),
        );
        let registered = registered.unwrap();
        let appended = appended.into_iter().next().unwrap().unwrap();
        let is_connected = (appended.connections.iter())
            .any(|connection| connection.number == request.connection.number);
        let is_in_page = sequences(&registered.page).contains(&sequence);
        assert!(is_connected != is_in_page, "{appended:?} {registered:?}");
        bench
            .acknowledge("phone", &at(&registered.start, appended.place))
            .await;
        bench.unregister(&request.connection).await;
    }
}

#[tokio::test]
async fn a_new_device_starts_at_the_newest_event_for_everyone() {
    let bench = Bench::start().await;
    let newest = |sequence| Everyone {
        creation: 5,
        sequence,
    };
    let mut request = bench.request("phone");
    request.newest_everyone = newest(9);
    let start = bench.register_with(&request).await.start;
    assert_eq!(start.places.everyone, newest(9));
    // A known device goes on from what it acknowledged, also with a cursor of an older time line.
    let mut cursor = start;
    cursor.epoch = another_epoch();
    cursor.places.everyone = newest(12);
    let mut request = with_cursor(&bench, "phone", cursor);
    request.newest_everyone = newest(20);
    let start = bench.register_with(&request).await.start;
    assert_eq!(start.places.everyone, newest(12));
    cursor.places.everyone = newest(11);
    let start = bench
        .register_with(&with_cursor(&bench, "phone", cursor))
        .await
        .start;
    assert_eq!(start.places.everyone, newest(12));
}

#[tokio::test]
async fn expired_messages_are_not_pending() {
    let bench = Bench::start().await;
    bench.append_all(&[bench.expired(1)]).await;
    bench.append([2]).await;
    bench.append_all(&[bench.expired(4)]).await;
    let soon = bench.append_of(Lane::High, 3);
    bench.append_all(&[soon]).await;
    assert_eq!(bench.register("phone").await.pending, 2);
    bench.pass(Duration::from_millis(2 * HOUR_MS)).await;
    assert_eq!(bench.register("phone").await.pending, 0);
}

fn with_cursor(bench: &Bench, device: &str, cursor: Position) -> Register {
    Register {
        cursor: Some(cursor),
        ..bench.request(device)
    }
}
