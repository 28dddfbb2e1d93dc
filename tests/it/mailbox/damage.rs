//! A damaged mailbox is repaired: nothing that is there stays unread, and everybody is told.

use catchup::mailbox::MailboxError;
use catchup::protocol::{Lane, Position};
use redis::AsyncCommands;

use super::{Bench, after, at, page_of, sequences};

/// A mailbox with two devices, messages 1 to 3 in the list, 1 acknowledged by the phone.
async fn used() -> (Bench, Position) {
    let bench = Bench::start().await;
    let start = bench.register("phone").await.start;
    bench.register("laptop").await;
    bench.append(1..=3).await;
    bench.acknowledge("phone", &at(&start, 1)).await;
    (bench, start)
}

/// Registers the phone again and checks that it is told, gets what is there, and goes on.
async fn recovers(bench: &Bench, expected: &[u64]) {
    let mut request = bench.request("phone");
    let registered = bench.register_with(&request).await;
    assert!(registered.store_lost, "it is told");
    assert_eq!(sequences(&registered.page), expected);
    let mut position = after(registered.start, &registered.page);
    position.store_lost_told = true;
    bench.acknowledge("phone", &position).await;
    bench.append([9]).await;
    request.order = Some(registered.order);
    let registered = bench.register_with(&request).await;
    assert!(!registered.store_lost);
    assert_eq!(sequences(&registered.page), [9]);
    assert_eq!(registered.page.evicted + registered.page.expired, 0);
}

#[tokio::test]
async fn a_hash_of_the_wrong_type() {
    let (bench, _) = used().await;
    let _: () = bench.redis().set(bench.hash(), "junk").await.unwrap();
    let registered = bench.register("phone").await;
    // Without records nobody knows the device, and it has no cursor: a new, first one.
    assert_eq!(sequences(&registered.page), [1, 2, 3]);
    let kept: String = bench
        .redis()
        .get(format!("{}:damaged", bench.hash()))
        .await
        .unwrap();
    assert_eq!(kept, "junk");
}

#[tokio::test]
async fn a_list_of_the_wrong_type() {
    for lane in Lane::ALL {
        let (bench, _) = used().await;
        let _: () = bench.redis().set(bench.key(lane), "junk").await.unwrap();
        let left: &[u64] = match lane {
            Lane::Normal => &[],
            Lane::High => &[2, 3],
        };
        recovers(&bench, left).await;
    }
}

#[tokio::test]
async fn a_counter_that_is_gone_or_junk() {
    for value in [
        None,
        Some("junk"),
        Some("-7"),
        Some("1.5"),
        Some("2"),
        Some("1e400"),
    ] {
        let (bench, _) = used().await;
        let _: () = match value {
            None => bench
                .redis()
                .hdel(bench.hash(), "last:normal")
                .await
                .unwrap(),
            Some(text) => (bench.redis().hset(bench.hash(), "last:normal", text).await).unwrap(),
        };
        recovers(&bench, &[1, 2, 3]).await;
    }
}

#[tokio::test]
async fn a_counter_below_what_devices_acknowledged() {
    let (bench, start) = used().await;
    for device in ["phone", "laptop"] {
        bench.acknowledge(device, &at(&start, 3)).await;
    }
    assert!(bench.waiting().await.is_empty());
    // With the list empty only the devices' records show that the counter is wrong.
    let _: () = bench
        .redis()
        .hdel(bench.hash(), "last:normal")
        .await
        .unwrap();
    bench.append([4]).await;
    recovers(&bench, &[4]).await;
}

#[tokio::test]
async fn a_record_that_cannot_be_read() {
    for text in ["junk", "", "1 2 3", "1 1 1 1 1 1 x", "-1 0 0 0 0 0 0"] {
        let (bench, _) = used().await;
        let _: () = bench
            .redis()
            .hset(bench.hash(), "device:phone", text)
            .await
            .unwrap();
        recovers(&bench, &[1, 2, 3]).await;
    }
}

#[tokio::test]
async fn a_life_that_cannot_be_read() {
    let (bench, _) = used().await;
    let _: () = bench
        .redis()
        .hset(bench.hash(), "life", "junk")
        .await
        .unwrap();
    recovers(&bench, &[2, 3]).await;
}

#[tokio::test]
async fn other_fields_that_cannot_be_read_do_no_harm() {
    for field in ["connections", "hold", "trimmed", "born", "expiry:normal"] {
        let (bench, _) = used().await;
        let _: () = bench
            .redis()
            .hset(bench.hash(), field, "junk, a b c d e,")
            .await
            .unwrap();
        bench.append([4]).await;
        let again = bench
            .append_once(&bench.append_of(Lane::Normal, 4))
            .await
            .unwrap();
        assert!(again.repeated);
        assert_eq!(sequences(&bench.register("phone").await.page), [2, 3, 4]);
    }
}

#[tokio::test]
async fn an_append_repairs_and_its_repeat_stores_once() {
    for broken in 0..3 {
        let (bench, _) = used().await;
        let hash = bench.hash();
        let _: () = match broken {
            0 => bench.redis().set(hash, "junk").await.unwrap(),
            1 => bench
                .redis()
                .set(bench.key(Lane::Normal), "junk")
                .await
                .unwrap(),
            _ => bench
                .redis()
                .hset(hash, "last:normal", "junk")
                .await
                .unwrap(),
        };
        let append = bench.append_of(Lane::Normal, 4);
        let outcome = bench.link.append(std::slice::from_ref(&append)).await;
        assert_eq!(outcome, [Err(MailboxError::Damaged)]);
        assert!(outcome[0].as_ref().unwrap_err().is_retryable());
        bench.append_once(&append).await.unwrap();
        let waiting = bench.waiting().await;
        assert_eq!(
            waiting.iter().filter(|one| **one == 4).count(),
            1,
            "{waiting:?}"
        );
        assert!(sequences(&bench.register("phone").await.page).contains(&4));
    }
}

#[tokio::test]
async fn every_call_repairs() {
    let (bench, start) = used().await;
    let request = bench.request("tablet");
    let order = bench.register_with(&request).await.order;
    let break_it = async || {
        let _: () = bench
            .redis()
            .hset(bench.hash(), "last:high", "junk")
            .await
            .unwrap();
    };
    let life = MailboxError::LifeChanged;
    break_it().await;
    let position = at(&start, 1);
    let call = bench.link.acknowledge(&bench.user, "phone", &position);
    assert_eq!(call.await, Err(life.clone()));
    let start = bench.register("phone").await.start;
    break_it().await;
    let call = bench.link.page(&bench.user, "phone", &start, page_of(1));
    assert_eq!(call.await, Err(life.clone()));
    let start = bench.register("phone").await.start;
    break_it().await;
    let call = bench.link.reassert(
        &bench.user,
        "tablet",
        &request.connection,
        order,
        start.life,
    );
    assert_eq!(call.await, Err(life));
    break_it().await;
    bench
        .append_once(&bench.append_of(Lane::High, 5))
        .await
        .unwrap();
    let _: () = bench.redis().set(bench.hash(), "junk").await.unwrap();
    bench
        .link
        .drop_node(&bench.user, "node", "first")
        .await
        .unwrap();
}

#[tokio::test]
async fn whoever_finds_it_repaired_by_another_goes_on() {
    let (bench, _) = used().await;
    let _: () = bench
        .redis()
        .set(bench.key(Lane::Normal), "junk")
        .await
        .unwrap();
    let requests = ["phone", "laptop", "tablet"].map(|device| bench.request(device));
    let calls = requests
        .iter()
        .map(|request| bench.link.register(&bench.user, request));
    for registered in futures_util::future::join_all(calls).await {
        registered.unwrap();
    }
}
