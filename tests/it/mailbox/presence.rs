//! Where a user is connected: `reassert`, `unregister`, `drop_node`, `connections`.

use std::time::Duration;

use catchup::event::UserId;
use catchup::mailbox::{ConnectionId, MailboxError};
use catchup::protocol::Lane;
use redis::AsyncCommands;

use super::{Bench, another_life, at};

#[tokio::test]
async fn reassert_restores_a_connection_and_returns_the_last_places() {
    let bench = Bench::start().await;
    let request = bench.request("phone");
    let registered = bench.register_with(&request).await;
    bench
        .link
        .drop_node(&bench.user, "node", "first")
        .await
        .unwrap();
    bench.append(1..=2).await;
    bench.append_all(&[bench.append_of(Lane::High, 3)]).await;
    for _ in 0..2 {
        let call = bench.link.reassert(
            &bench.user,
            "phone",
            &request.connection,
            registered.order,
            registered.start.life,
        );
        assert_eq!(call.await, Ok([2, 1]));
    }
    assert_eq!(bench.append([4]).await[0].connections.len(), 1);
}

#[tokio::test]
async fn reassert_refuses_what_is_not_there_any_more() {
    let bench = Bench::start().await;
    let older = bench.request("phone");
    let first = bench.register_with(&older).await;
    let newer = bench.request("phone");
    bench.register_with(&newer).await;
    let reassert = async |device: &str, life| {
        let call = bench
            .link
            .reassert(&bench.user, device, &older.connection, first.order, life);
        call.await.unwrap_err()
    };
    let life = first.start.life;
    assert_eq!(reassert("phone", life).await, MailboxError::Replaced);
    assert_eq!(reassert("laptop", life).await, MailboxError::UnknownDevice);
    assert_eq!(
        reassert("phone", another_life(life)).await,
        MailboxError::LifeChanged
    );
    let connections = bench.append([1]).await.remove(0).connections;
    assert_eq!(connections[0].number, newer.connection.number);
}

#[tokio::test]
async fn reassert_keeps_a_device_known() {
    let bench = Bench::with(|config| config.ttl = Duration::from_secs(600)).await;
    let request = bench.request("phone");
    let phone = bench.register_with(&request).await;
    let laptop = bench.register("laptop").await.start;
    bench.append([1]).await;
    bench.pass(Duration::from_secs(900)).await;
    let call = bench.link.reassert(
        &bench.user,
        "phone",
        &request.connection,
        phone.order,
        phone.start.life,
    );
    call.await.unwrap();
    bench.acknowledge("laptop", &at(&laptop, 1)).await;
    assert_eq!(bench.waiting().await, [1]);
}

#[tokio::test]
async fn unregister_removes_only_its_own_connection() {
    let bench = Bench::start().await;
    let older = bench.request("phone");
    bench.register_with(&older).await;
    let newer = bench.request("phone");
    bench.register_with(&newer).await;
    bench.register("laptop").await;
    for _ in 0..2 {
        bench.unregister(&older.connection).await;
        assert_eq!(bench.append([1]).await[0].connections.len(), 2);
    }
    bench.unregister(&newer.connection).await;
    let connections = bench.append([2]).await.remove(0).connections;
    assert_eq!(connections.len(), 1);
    assert_eq!(connections[0].device, "laptop");
}

#[tokio::test]
async fn a_device_was_seen_until_it_unregistered() {
    let bench = Bench::with(|config| config.ttl = Duration::from_secs(600)).await;
    let request = bench.request("phone");
    bench.register_with(&request).await;
    let laptop = bench.register("laptop").await.start;
    bench.pass(Duration::from_secs(500)).await;
    bench.unregister(&request.connection).await;
    bench.append([1]).await;
    bench.pass(Duration::from_secs(500)).await;
    bench.acknowledge("laptop", &at(&laptop, 1)).await;
    assert_eq!(bench.waiting().await, [1]);
}

#[tokio::test]
async fn drop_node_removes_one_process_of_one_node() {
    let bench = Bench::start().await;
    let mut names = Vec::new();
    for (node, incarnation) in [
        ("a", "first"),
        ("a", "first"),
        ("a", "second"),
        ("b", "first"),
    ] {
        let mut request = bench.request(&format!("device-{}", names.len()));
        request.connection = ConnectionId {
            node: node.into(),
            incarnation: incarnation.into(),
            ..request.connection
        };
        bench.register_with(&request).await;
        names.push(request.device.to_string());
    }
    for _ in 0..2 {
        bench
            .link
            .drop_node(&bench.user, "a", "first")
            .await
            .unwrap();
    }
    let connections = bench.append([1]).await.remove(0).connections;
    let left: Vec<&str> = (connections.iter())
        .map(|one| one.device.as_str())
        .collect();
    assert_eq!(left, names[2..]);
}

#[tokio::test]
async fn connections_of_many_users_come_in_the_order_asked() {
    let bench = Bench::start().await;
    bench.register("phone").await;
    let other = UserId::parse("bob").unwrap();
    let damaged = UserId::parse("eve").unwrap();
    let key = bench.link.keys().mailbox("eve");
    let _: () = bench.redis().set(key, "junk").await.unwrap();
    let users = [&other, &damaged, &bench.user];
    let found = bench.link.connections(&users).await.unwrap();
    assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), [0, 0, 1]);
    assert!(bench.link.connections(&[]).await.unwrap().is_empty());
}
