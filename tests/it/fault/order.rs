//! Sequential events and several workers: exactly in order, live and replayed.

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::{alone, load, users};
use crate::support::socket::data_of;
use crate::support::{Socket, System};

const USERS: usize = 8;

#[tokio::test]
async fn sequential_events_stay_in_order_live_and_waiting() {
    let _alone = alone().await;
    let system = System::builder().workers(3).start().await;
    let users = users(USERS);
    let count = load(500).min(1_000);
    let mut sockets: Vec<Socket> = Vec::new();
    for user in &users {
        let mut socket = system.connect(user).await;
        socket.until_live().await;
        sockets.push(socket);
    }
    let began = std::time::Instant::now();
    // Live: each user's next event is published when the one before has its PubAck.
    let publishing = join_all(users.iter().map(|user| publish(&system, user, 0..count)));
    let receiving = join_all(sockets.iter_mut().map(|socket| socket.messages(count)));
    let (_, received) = tokio::join!(publishing, receiving);
    for (user, messages) in users.iter().zip(received) {
        assert_eq!(data_of(&messages), numbers(0..count), "{user}, live");
    }
    println!(
        "order: {count} live to each of {USERS}: {:.1} s",
        began.elapsed().as_secs_f64()
    );

    for socket in sockets {
        socket.close().await;
    }
    let further = count..2 * count;
    join_all(
        users
            .iter()
            .map(|user| publish(&system, user, further.clone())),
    )
    .await;
    let replays = users.iter().map(async |user| {
        let mut socket = system.connect(user).await;
        let replayed = socket.until_live().await;
        // Who connects before the last is in the mailbox gets the rest live.
        let rest = socket.messages(count - replayed.len()).await;
        socket.close().await;
        replayed.into_iter().chain(rest).collect::<Vec<Value>>()
    });
    for (user, messages) in users.iter().zip(join_all(replays).await) {
        assert_eq!(
            data_of(&messages),
            numbers(further.clone()),
            "{user}, replayed"
        );
    }
    println!("order: all of it: {:.1} s", began.elapsed().as_secs_f64());
}

async fn publish(system: &System, user: &str, numbers: std::ops::Range<usize>) {
    for number in numbers {
        let event = json!({ "targetUserIds": [user], "data": number });
        system.publish(&format!("new_comment.{user}"), event).await;
    }
}

fn numbers(numbers: std::ops::Range<usize>) -> Vec<Value> {
    numbers.map(Value::from).collect()
}
