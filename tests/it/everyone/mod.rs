//! Events for everyone: at once to who is connected, on coming back to who was seen before.
//!
//! | file | what it shows |
//! |---|---|
//! | `reach` | whom they reach: devices, exclusion, priority, `publish` without `--to` |
//! | `order` | their order among the user's own messages, the window |
//! | `missed` | cap, time to live, what is stored as acknowledged |
//! | `cost` | no write a user |
//! | `stream` | `BROADCASTS` made anew, restored, with what cannot be read in it |

mod cost;
mod missed;
mod order;
mod reach;
mod stream;

use serde_json::{Value, json};

use crate::support::socket::{all_messages, data_of};
use crate::support::system::Builder;
use crate::support::{Frame, Role, Socket, System};

/// A system of its own, for its events reach all users, with a watcher at each gateway: what they
/// have, every device finds.
struct Hall {
    system: System,
    watchers: Vec<Socket>,
}

impl Hall {
    async fn open(builder: Builder) -> Hall {
        let system = builder.start().await;
        let mut hall = Hall {
            system,
            watchers: Vec::new(),
        };
        hall.watch().await;
        hall
    }

    /// Puts a watcher at each gateway.
    async fn watch(&mut self) {
        self.watchers.clear();
        for gateway in self.system.gateways() {
            let mut watcher = gateway
                .socket()
                .user("watcher")
                .device(gateway.name())
                .connect()
                .await;
            watcher.frames_until("live").await;
            self.watchers.push(watcher);
        }
    }

    /// Publishes an event for everyone with this data, and waits until each gateway has it.
    async fn tell(&mut self, data: impl Into<Value>) {
        self.tell_event("new_post.1", for_everyone(data)).await;
    }

    async fn tell_event(&mut self, address: &str, event: Value) {
        self.system.publish(address, event.clone()).await;
        for watcher in &mut self.watchers {
            assert_eq!(data_of(&watcher.messages(1).await), [event["data"].clone()]);
        }
    }

    /// Publishes for one user, and waits until the mailbox has it.
    async fn tell_user(&self, event: Value) {
        self.system.publish("new_post.1", event).await;
        self.system.processed().await;
    }

    fn gateway(&self) -> &Role {
        self.system.gateway(0)
    }

    /// A device that was seen, and is away.
    async fn introduce(&self, user: &str, device: &str) {
        let request = self.gateway().socket().user(user).device(device);
        let mut socket = request.connect().await;
        socket.until_live().await;
        socket.close().await;
    }
}

fn for_everyone(data: impl Into<Value>) -> Value {
    json!({ "data": data.into() })
}

/// Connects, and reads up to `live` without acknowledging anything.
async fn open(gateway: &Role, user: &str, device: &str) -> (Socket, Vec<Frame>) {
    let mut socket = gateway.socket().user(user).device(device).connect().await;
    let frames = socket.frames_until("live").await;
    (socket, frames)
}

/// The `data` of all messages in these frames.
fn data_in(frames: &[Frame]) -> Vec<Value> {
    data_of(&all_messages(frames))
}
