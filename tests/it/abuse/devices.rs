//! A user who comes with more and more devices: sixteen are kept, and the mailbox stays small.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;
use tokio::task::JoinSet;

use crate::support::socket::{data_of, messages_of};
use crate::support::{DEADLINE, System, event, user};

/// Devices that are kept of one user (contract §4).
const DEVICES_MAX: usize = 16;
/// How many come.
const DEVICES: usize = 1_000;
/// How many at one time: fewer than are kept, so that nobody is refused.
const AT_ONCE: usize = 12;
/// Most bytes that Redis may use for the user's hash: sixteen devices, and the keys of what was
/// trimmed last.
const HASH_BYTES_MAX: usize = 8 * 1024;

#[tokio::test]
async fn a_thousand_devices_of_one_user_leave_sixteen() {
    let system = System::shared().await;
    let ann = user("ann");
    let next = Arc::new(AtomicUsize::new(0));
    let mut lanes = JoinSet::new();
    for lane in 0..AT_ONCE {
        let request = system.gateway(lane % 2).socket().user(&ann);
        let next = Arc::clone(&next);
        lanes.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= DEVICES {
                    return;
                }
                let request = request.clone().device(&format!("device-{number}"));
                // Beyond the rate of new sockets one is told to come back.
                let mut socket = request.connect_within(DEADLINE).await;
                socket.until_live().await;
                // Most leave in order, and some vanish.
                match number % 4 {
                    0 => drop(socket),
                    _ => socket.close().await,
                }
            }
        });
    }
    lanes.join_all().await;
    assert_small(&system, &ann).await;

    // The last of them is known still, and gets what comes now as one of sixteen.
    system.publish("new_post.1", event(&[&ann], 1)).await;
    system.until_waiting(&ann, 1).await;
    let newest = known_devices(&system, &ann).await.pop().expect("a device");
    let request = system.gateway(0).socket().user(&ann).device(&newest);
    let mut socket = request.connect().await;
    assert_eq!(data_of(&socket.until_live().await), [1]);
    // Everything that is acknowledged by one waits for the fifteen others.
    assert_eq!(system.waiting(&ann).await.len(), 1);
    assert_small(&system, &ann).await;
}

#[tokio::test]
async fn a_device_that_acknowledges_everything_twice_costs_nothing() {
    let system = System::shared().await;
    let ann = user("ann");
    let mut socket = system.connect(&ann).await;
    socket.until_live().await;
    let mut all = Vec::new();
    for number in 0..20 {
        system.publish("new_post.1", event(&[&ann], number)).await;
        let frame = socket.expect("messages").await;
        assert_eq!(data_of(&messages_of(&frame)), [number]);
        socket.ack(&frame).await;
        socket.ack(&frame).await;
        all.push(frame);
        // And all of what came before once more, in the wrong order.
        for earlier in all.iter().rev() {
            socket.ack(earlier).await;
        }
    }
    system.until_waiting(&ann, 0).await;
    let acked = system.mailbox(&ann).await["device:default"].clone();
    let acked = String::from_utf8(acked).expect("text");
    assert!(acked.starts_with("20 0 "), "{acked}");
    socket.close().await;
    // The oldest of its cursors is behind what is stored: nothing comes again, nothing is missed.
    let cursor = all[0]["cursor"].as_str().expect("a cursor");
    let request = system.gateway(1).socket().user(&ann).cursor(cursor);
    let mut socket = request.connect().await;
    assert_eq!(socket.until_live().await, Vec::<serde_json::Value>::new());
}

async fn known_devices(system: &System, user: &str) -> Vec<String> {
    let fields = system.mailbox(user).await;
    let devices = fields
        .keys()
        .filter_map(|field| field.strip_prefix("device:"));
    devices.map(str::to_owned).collect()
}

async fn assert_small(system: &System, user: &str) {
    let devices = known_devices(system, user).await;
    assert!(devices.len() <= DEVICES_MAX, "{devices:?}");
    let fields = system.mailbox(user).await;
    let replaced = fields.keys().filter(|field| field.starts_with("replaced:"));
    assert!(replaced.count() <= DEVICES_MAX, "{:?}", fields.keys());
    let mut usage = redis::cmd("MEMORY");
    usage
        .arg("USAGE")
        .arg(system.key(&format!("mailbox:{{{user}}}")));
    let bytes: usize = usage
        .query_async(&mut system.redis().await)
        .await
        .expect("a hash");
    assert!(
        bytes <= HASH_BYTES_MAX,
        "{bytes} bytes: {}",
        json!(fields.keys().collect::<Vec<_>>())
    );
}
