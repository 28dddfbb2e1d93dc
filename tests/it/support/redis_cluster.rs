//! A Redis Cluster of real servers, whose slots can be moved.

use std::time::Duration;

use catchup::mailbox::info_field;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, FromRedisValue, RedisResult};

use super::ports::free_port;
use super::{RedisServer, eventually};

/// Of every cluster.
pub const SLOTS: u16 = 16_384;
/// Keys moved in one command.
const KEYS_PER_MOVE: usize = 100;

/// Longest wait for a reply on a machine that does much else.
const REPLY_MAX: Duration = Duration::from_secs(20);

/// Primaries that share the slots; those that serve none come last.
pub struct RedisCluster {
    servers: Vec<RedisServer>,
    connections: Vec<MultiplexedConnection>,
    ids: Vec<String>,
    /// By slot, the index of its server.
    owners: Vec<usize>,
}

impl RedisCluster {
    /// `serving` servers with an equal part of the slots each, and `spare` ones without.
    pub async fn start(serving: usize, spare: usize) -> RedisCluster {
        let mut cluster = RedisCluster {
            servers: Vec::new(),
            connections: Vec::new(),
            ids: Vec::new(),
            owners: (0..usize::from(SLOTS))
                .map(|slot| slot * serving / usize::from(SLOTS))
                .collect(),
        };
        for index in 0..serving + spare {
            let bus_port = free_port();
            let server = start_member(bus_port);
            let mut connection = connect(&server).await;
            let _: () = ask(
                &mut connection,
                &["SET-CONFIG-EPOCH", &(index + 1).to_string()],
            )
            .await
            .expect("a new server");
            if index < serving {
                let first = cluster.owners.iter().position(|owner| *owner == index);
                let last = cluster.owners.iter().rposition(|owner| *owner == index);
                let range = [first, last].map(|slot| slot.expect("a part").to_string());
                let words = ["ADDSLOTSRANGE", &range[0], &range[1]];
                let _: () = ask(&mut connection, &words).await.expect("free slots");
            }
            if let Some(first) = cluster.connections.first_mut() {
                let (port, bus_port) = (server.port().to_string(), bus_port.to_string());
                let words = ["MEET", "127.0.0.1", &port, &bus_port];
                let _: () = ask(first, &words).await.expect("they meet");
            }
            cluster
                .ids
                .push(ask(&mut connection, &["MYID"]).await.expect("an id"));
            cluster.connections.push(connection);
            cluster.servers.push(server);
        }
        cluster.agree().await;
        cluster
    }

    /// A replica of a server, which is up to date, and its id.
    pub async fn add_replica(&mut self, of: usize) -> (RedisServer, String) {
        let bus_port = free_port();
        let server = start_member(bus_port);
        let mut connection = connect(&server).await;
        let (port, bus_port) = (server.port().to_string(), bus_port.to_string());
        let words = ["MEET", "127.0.0.1", &port, &bus_port];
        let _: () = ask(&mut self.connections[0], &words)
            .await
            .expect("they meet");
        eventually("it replicates", async || {
            let _: () = ask(&mut connection, &["REPLICATE", &self.ids[of]])
                .await
                .ok()?;
            Some(())
        })
        .await;
        eventually("it is up to date", async || {
            let command = redis::cmd("INFO").arg("replication").to_owned();
            let info: String = command.query_async(&mut connection).await.ok()?;
            info.contains("master_link_status:up").then_some(())
        })
        .await;
        let id = ask(&mut connection, &["MYID"]).await.expect("an id");
        (server, id)
    }

    /// All but the last server, so that it has to be found; and one that does not answer.
    pub fn url(&self) -> String {
        let servers = self.servers.iter().take(self.servers.len() - 1);
        let addresses: Vec<String> = servers.map(RedisServer::address).collect();
        format!("redis+cluster://127.0.0.1:1,{}", addresses.join(","))
    }

    pub fn server(&self, index: usize) -> &RedisServer {
        &self.servers[index]
    }

    pub fn owner(&self, slot: u16) -> usize {
        self.owners[usize::from(slot)]
    }

    /// The slot of a key, as the servers have it.
    pub async fn slot_of(&mut self, key: &str) -> u16 {
        ask(&mut self.connections[0], &["KEYSLOT", key])
            .await
            .expect("a slot")
    }

    /// A connection to the server that has a user's mailbox.
    pub async fn of_user(&mut self, user: &str) -> MultiplexedConnection {
        let slot = self.slot_of(&format!("{{{user}}}")).await;
        connect(&self.servers[self.owner(slot)]).await
    }

    /// Moves a slot with all its keys, as `redis-cli --cluster reshard` does.
    pub async fn move_slot(&mut self, slot: u16, to: usize) {
        self.know_owner(slot).await;
        if self.owner(slot) != to {
            self.begin_move(slot, to).await;
            self.finish_move(slot, to).await;
            self.know_owner(slot).await;
        }
    }

    /// The first half: from here on keys may be on either side.
    async fn begin_move(&mut self, slot: u16, to: usize) {
        let from = self.owner(slot);
        let (from_id, to_id) = (self.ids[from].clone(), self.ids[to].clone());
        let slot = slot.to_string();
        let importing = ["SETSLOT", &slot, "IMPORTING", &from_id];
        let _: () = ask(&mut self.connections[to], &importing)
            .await
            .expect("it imports");
        let migrating = ["SETSLOT", &slot, "MIGRATING", &to_id];
        let _: () = ask(&mut self.connections[from], &migrating)
            .await
            .expect("it gives away");
    }

    async fn finish_move(&mut self, slot: u16, to: usize) {
        let from = self.owner(slot);
        let port = self.servers[to].port();
        let connection = &mut self.connections[from];
        loop {
            let words = [
                "GETKEYSINSLOT",
                &slot.to_string(),
                &KEYS_PER_MOVE.to_string(),
            ];
            let keys: Vec<String> = ask(connection, &words).await.expect("keys");
            if keys.is_empty() {
                break;
            }
            let mut command = redis::cmd("MIGRATE");
            command
                .arg("127.0.0.1")
                .arg(port)
                .arg("")
                .arg(0)
                .arg(5_000)
                .arg("KEYS")
                .arg(keys);
            let _: () = command.query_async(connection).await.expect("keys move");
        }
        let to_id = self.ids[to].clone();
        // The new owner first: then nobody is sent to a server that does not know it has the slot.
        let others = (0..self.ids.len()).filter(|index| *index != to);
        for index in [to].into_iter().chain(others).collect::<Vec<_>>() {
            let words = ["SETSLOT", &slot.to_string(), "NODE", &to_id];
            // A server that was killed hears of it from the others.
            let told: RedisResult<()> = ask(&mut self.connections[index], &words).await;
            assert!(told.is_ok() || index != to, "{told:?}");
        }
    }

    /// Waits until all servers say the same of a slot, and know each other's configuration: a server
    /// that takes a slot without that may give its claim the number of another's.
    async fn know_owner(&mut self, slot: u16) {
        let owner = eventually("all servers know one owner", async || {
            let mut owners = Vec::new();
            let mut latest = Vec::new();
            let mut own = Vec::new();
            for connection in &mut self.connections {
                let nodes: String = ask(connection, &["NODES"]).await.ok()?;
                owners.push(self.ids.iter().position(|id| owns(&nodes, id, slot))?);
                let info: String = ask(connection, &["INFO"]).await.ok()?;
                latest.push(info_field(&info, "cluster_current_epoch")?.to_owned());
                own.push(info_field(&info, "cluster_my_epoch")?.to_owned());
            }
            own.sort();
            let is_distinct = own.windows(2).all(|pair| pair[0] != pair[1]);
            owners.dedup();
            latest.dedup();
            (owners.len() == 1 && latest.len() == 1 && is_distinct).then_some(owners[0])
        })
        .await;
        self.owners[usize::from(slot)] = owner;
    }

    /// Waits until all servers know of all slots.
    async fn agree(&mut self) {
        for connection in &mut self.connections {
            eventually("the cluster is whole", async || {
                let info: String = ask(connection, &["INFO"]).await.ok()?;
                let known = format!("cluster_known_nodes:{}", self.ids.len());
                (info.contains("cluster_state:ok") && info.contains(&known)).then_some(())
            })
            .await;
        }
    }
}

/// Whether a server has a slot, as `CLUSTER NODES` has it.
fn owns(nodes: &str, id: &str, slot: u16) -> bool {
    let line = nodes.lines().find(|line| line.starts_with(id));
    let ranges = line.into_iter().flat_map(|line| line.split(' ').skip(8));
    ranges.filter(|range| !range.starts_with('[')).any(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let number = |text: &str| text.parse::<u16>().expect("a slot");
        (number(first)..=number(last)).contains(&slot)
    })
}

fn start_member(bus_port: u16) -> RedisServer {
    let bus_port = bus_port.to_string();
    RedisServer::start_with(&[
        "--appendonly",
        "yes",
        "--maxmemory-policy",
        "noeviction",
        "--cluster-enabled",
        "yes",
        "--cluster-node-timeout",
        "2000",
        "--cluster-require-full-coverage",
        "no",
        // One without slots stays a primary.
        "--cluster-allow-replica-migration",
        "no",
        "--cluster-port",
        &bus_port,
    ])
}

async fn connect(server: &RedisServer) -> MultiplexedConnection {
    let client = redis::Client::open(server.url()).expect("a URL");
    let limits = AsyncConnectionConfig::new().set_response_timeout(Some(REPLY_MAX));
    let connection = client
        .get_multiplexed_async_connection_with_config(&limits)
        .await;
    connection.expect("it answers")
}

async fn ask<T: FromRedisValue>(
    connection: &mut MultiplexedConnection,
    words: &[&str],
) -> RedisResult<T> {
    redis::cmd("CLUSTER")
        .arg(words)
        .query_async(connection)
        .await
}
