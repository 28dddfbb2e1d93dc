//! `acknowledge`: cursors move forward, and what every known device has passed leaves the list.

use std::time::Duration;

use catchup::mailbox::{MailboxError, Register};
use catchup::protocol::{Everyone, Lane, Position};
use redis::AsyncCommands;

use super::{Bench, another_epoch, another_life, at};

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn the_slowest_device_decides() {
    let bench = Bench::start().await;
    let phone = bench.register("phone").await.start;
    let laptop = bench.register("laptop").await.start;
    bench.append(1..=5).await;
    bench.acknowledge("phone", &at(&phone, 4)).await;
    assert_eq!(bench.waiting().await.len(), 5);
    bench.acknowledge("laptop", &at(&laptop, 2)).await;
    assert_eq!(bench.waiting().await, [3, 4, 5]);
}

#[tokio::test]
async fn a_cursor_never_moves_back() {
    let bench = Bench::start().await;
    bench.append(1..=3).await;
    let start = bench.register("phone").await.start;
    let mut position = at(&start, 2);
    position.time_ms = 9;
    position.places.everyone = Everyone {
        creation: 2,
        sequence: 1,
    };
    bench.acknowledge("phone", &position).await;
    bench.acknowledge("phone", &start).await;
    let start = bench.register("phone").await.start;
    assert_eq!((start.places, start.time_ms), (position.places, 9));
}

#[tokio::test]
async fn a_place_that_the_stream_lost_is_taken_back() {
    let bench = Bench::start().await;
    let place = |sequence| Everyone {
        creation: 5,
        sequence,
    };
    let mut position = bench.register("phone").await.start;
    position.places.everyone = place(9);
    bench.acknowledge("phone", &position).await;
    let lose = async |device: &str, position: &Position| {
        let call = bench.link.lose_everyone(&bench.user, device, position);
        call.await
    };
    let stored = async || bench.register("phone").await.start.places.everyone;
    // Where another one is stored meanwhile, that stays.
    let mut other = position;
    other.places.everyone = place(8);
    lose("phone", &other).await.unwrap();
    assert_eq!(stored().await, place(9));
    for _ in 0..2 {
        lose("phone", &position).await.unwrap();
        assert_eq!(stored().await, Everyone::LOST);
    }
    // From there it moves forward again.
    position.places.everyone = place(3);
    bench.acknowledge("phone", &position).await;
    assert_eq!(stored().await, place(3));
    let unknown = lose("tablet", &position).await;
    assert_eq!(unknown, Err(MailboxError::UnknownDevice));
    position.life = another_life(position.life);
    let other_life = lose("phone", &position).await;
    assert_eq!(other_life, Err(MailboxError::LifeChanged));
}

#[tokio::test]
async fn lanes_are_acknowledged_apart() {
    let bench = Bench::start().await;
    bench.append_all(&[bench.append_of(Lane::High, 1)]).await;
    bench.append([2]).await;
    let mut position = bench.register("phone").await.start;
    position.places.set(Lane::High, 1);
    bench.acknowledge("phone", &position).await;
    assert!(bench.waiting_in(Lane::High).await.is_empty());
    assert_eq!(bench.waiting().await, [2]);
}

#[tokio::test]
async fn a_place_that_was_never_given_out_is_refused() {
    let bench = Bench::start().await;
    bench.append([1]).await;
    let start = bench.register("phone").await.start;
    for place in [2, u64::MAX] {
        let position = at(&start, place);
        let call = bench.link.acknowledge(&bench.user, "phone", &position);
        assert_eq!(call.await, Err(MailboxError::Ahead));
    }
    assert_eq!(bench.waiting().await, [1]);
}

#[tokio::test]
async fn positions_of_another_mailbox_or_time_line_and_unknown_devices_are_refused() {
    let bench = Bench::start().await;
    bench.append([1]).await;
    let start = at(&bench.register("phone").await.start, 1);
    let refused = async |device: &str, position: Position| {
        let call = bench.link.acknowledge(&bench.user, device, &position);
        call.await.unwrap_err()
    };
    assert_eq!(refused("laptop", start).await, MailboxError::UnknownDevice);
    let other = Position {
        life: another_life(start.life),
        ..start
    };
    assert_eq!(refused("phone", other).await, MailboxError::LifeChanged);
    let other = Position {
        epoch: another_epoch(),
        ..start
    };
    let current = bench.link.epoch();
    assert_eq!(
        refused("phone", other).await,
        MailboxError::EpochChanged { current }
    );
    assert!(!bench.link.is_broken());
    assert_eq!(bench.waiting().await, [1]);
}

#[tokio::test]
async fn a_device_unseen_for_the_time_to_live_holds_nothing() {
    let bench = Bench::with(|config| config.ttl = 10 * MINUTE).await;
    bench.visit("phone").await;
    let laptop = bench.register("laptop").await.start;
    bench.append([1]).await;
    bench.pass(9 * MINUTE).await;
    bench.acknowledge("laptop", &at(&laptop, 1)).await;
    assert_eq!(bench.waiting().await, [1]);
    bench.pass(2 * MINUTE).await;
    bench.acknowledge("laptop", &at(&laptop, 1)).await;
    assert!(bench.waiting().await.is_empty());
}

#[tokio::test]
async fn a_connected_device_holds_however_short_the_time_to_live_is() {
    let bench = Bench::with(|config| config.ttl = Duration::from_secs(1)).await;
    bench.register("phone").await;
    let laptop = bench.register("laptop").await.start;
    bench.pass(2 * MINUTE).await;
    bench.append([1]).await;
    bench.acknowledge("laptop", &at(&laptop, 1)).await;
    assert_eq!(bench.waiting().await, [1]);
}

#[tokio::test]
async fn a_connection_that_nobody_asserts_holds_nothing_for_long() {
    let bench = Bench::with(|config| config.ttl = MINUTE).await;
    // As a registration leaves it that was carried out after its gateway had given it up.
    bench.register("phone").await;
    bench.pass(5 * MINUTE).await;
    let laptop = bench.register("laptop").await.start;
    bench.append([1]).await;
    bench.acknowledge("laptop", &at(&laptop, 1)).await;
    assert!(bench.waiting().await.is_empty());
}

#[tokio::test]
async fn after_a_change_of_epoch_nothing_is_trimmed_until_the_others_are_back() {
    let mut bench = Bench::own(|_| ()).await;
    bench.append([1]).await;
    let mut request = bench.request("phone");
    let first = bench.register_with(&request).await;
    bench.change_epoch().await;
    request.order = Some(first.order);
    request.session_life = Some(first.start.life);
    let start = bench.register_with(&request).await.start;
    bench.acknowledge("phone", &at(&start, 1)).await;
    bench.pass(3 * MINUTE).await;
    bench.acknowledge("phone", &at(&start, 1)).await;
    assert_eq!(bench.waiting().await, [1]);
    bench.pass(2 * MINUTE).await;
    let call = bench.link.reassert(
        &bench.user,
        "phone",
        &request.connection,
        first.order,
        start.life,
    );
    call.await.unwrap();
    assert!(bench.waiting().await.is_empty());
}

#[tokio::test]
async fn devices_of_a_lost_mailbox_have_the_time_to_live_to_come_back() {
    let bench = Bench::with(|config| config.ttl = 60 * MINUTE).await;
    let phone = bench.request("phone");
    let laptop = bench.request("laptop");
    let phone_start = bench.register_with(&phone).await.start;
    let laptop_start = bench.register_with(&laptop).await.start;
    let _: () = bench.redis().del(bench.hash()).await.unwrap();
    bench.append([1]).await;
    let start = bench
        .register_with(&with_cursor(&bench, "phone", phone_start))
        .await
        .start;
    bench.acknowledge("phone", &at(&start, 1)).await;
    bench.pass(50 * MINUTE).await;
    bench.acknowledge("phone", &at(&start, 1)).await;
    let registered = bench
        .register_with(&with_cursor(&bench, "laptop", laptop_start))
        .await;
    assert!(registered.store_lost);
    assert_eq!(registered.page.entries.len(), 1);
    bench.acknowledge("laptop", &at(&registered.start, 1)).await;
    bench.pass(15 * MINUTE).await;
    bench.acknowledge("laptop", &at(&registered.start, 1)).await;
    assert!(bench.waiting().await.is_empty());
}

fn with_cursor(bench: &Bench, device: &str, cursor: Position) -> Register {
    Register {
        cursor: Some(cursor),
        ..bench.request(device)
    }
}
