//! Who serves which slots of a cluster, as its servers say.

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Value};
use tokio::time::{Instant, timeout, timeout_at};

use super::address::{Address, refused};
use super::info::info_field;
use super::reply::{Reply, text_of};
use super::slots::{SLOTS, SlotSet};
use super::store::StoreConfig;
use super::{Link, MailboxError, Shard};

/// Longest wait for all servers; one answer is enough.
const ANSWER_MAX: Duration = Duration::from_secs(1);
/// Others may know more than the first that answers; they have so long from then on.
const OTHERS_MAX: Duration = Duration::from_millis(200);

/// A primary that serves slots.
pub(super) struct Server {
    /// Its host and port.
    pub name: String,
    pub address: Address,
    /// Its id in the cluster.
    pub node: String,
    /// Its id and those of its replicas.
    pub members: Vec<String>,
    pub slots: SlotSet,
}

/// What one server says.
struct Answer {
    /// The cluster's configuration epoch: the later, the newer.
    age: u64,
    servers: Vec<Server>,
}

/// Asks all servers that are known, and believes the one with the newest configuration.
///
/// # Errors
///
/// Where none answers; the first reason.
pub(super) async fn read(
    address: &Address,
    shards: &[Shard],
    config: &StoreConfig,
) -> Result<Vec<Server>, MailboxError> {
    let mut asked = FuturesUnordered::<BoxFuture<'_, Result<Answer, MailboxError>>>::new();
    let mut connected = Vec::new();
    for link in shards.iter().filter_map(Shard::unbroken) {
        connected.push(link.server().to_string());
        asked.push(Box::pin(async move {
            let name = link.server();
            let host = name.rsplit_once(':').map_or("", |(host, _)| host);
            ask(&mut link.raw(), address, host).await
        }));
    }
    let is_connected = |server: &Address| connected.contains(&server.name());
    for server in address.servers().filter(|server| !is_connected(server)) {
        asked.push(Box::pin(async move {
            let mut connection = open(&server, config).await?;
            ask(&mut connection, address, server.host()).await
        }));
    }
    let mut best: Option<Answer> = None;
    let mut failure = MailboxError::Unreachable("no server of the cluster answers".to_owned());
    let mut until = Instant::now() + ANSWER_MAX;
    while let Ok(Some(answer)) = timeout_at(until, asked.next()).await {
        match answer {
            Ok(answer) => {
                until = until.min(Instant::now() + OTHERS_MAX);
                if best.as_ref().is_none_or(|best| best.age < answer.age) {
                    best = Some(answer);
                }
            }
            Err(error) => failure = error,
        }
    }
    best.map(|best| best.servers).ok_or(failure)
}

async fn open(
    server: &Address,
    config: &StoreConfig,
) -> Result<MultiplexedConnection, MailboxError> {
    let client = server.primary(&config.tls).await?;
    let limits = AsyncConnectionConfig::new()
        .set_response_timeout(Some(ANSWER_MAX))
        .set_connection_timeout(Some(ANSWER_MAX));
    let connection = client.get_multiplexed_async_connection_with_config(&limits);
    connection.await.map_err(refused)
}

async fn ask(
    connection: &mut MultiplexedConnection,
    like: &Address,
    host: &str,
) -> Result<Answer, MailboxError> {
    let mut pipeline = redis::pipe();
    pipeline
        .cmd("CLUSTER")
        .arg("INFO")
        .cmd("CLUSTER")
        .arg("SLOTS");
    let answer = timeout(ANSWER_MAX, pipeline.query_async(connection)).await;
    let no_answer = |_| MailboxError::Unreachable("no answer in time".to_owned());
    let (info, slots): (String, Vec<Value>) = answer.map_err(no_answer)?.map_err(|error| {
        let text = error.to_string();
        match text.contains("cluster support disabled") {
            true => MailboxError::Unsuitable(
                "the server is no member of a cluster: give redis://HOST:PORT".to_owned(),
            ),
            false => refused(error),
        }
    })?;
    let age = info_field(&info, "cluster_current_epoch").and_then(|text| text.parse().ok());
    Ok(Answer {
        age: age.unwrap_or(0),
        servers: parse(slots, like, host)?,
    })
}

/// Reads `CLUSTER SLOTS`: ranges, each with its primary and that one's replicas.
fn parse(ranges: Vec<Value>, like: &Address, host: &str) -> Result<Vec<Server>, MailboxError> {
    let mut servers: Vec<Server> = Vec::new();
    for range in ranges {
        let mut range = Reply::new(vec![range]).array()?;
        let mut slot = || {
            let number = range.number()?;
            let slot = u16::try_from(number).ok().filter(|slot| *slot < SLOTS);
            slot.ok_or_else(|| MailboxError::Unexpected(format!("slot {number}")))
        };
        let (first, last) = (slot()?, slot()?);
        let mut primary = range.array()?;
        // Without a name: the host that was asked (the documentation of `CLUSTER SLOTS`).
        let named = text_of(primary.value()?)?;
        let host = if named.is_empty() { host } else { &named };
        if host == "?" {
            return Err(MailboxError::Unreachable(
                "a server of the cluster does not know its name: see cluster-announce-hostname"
                    .to_owned(),
            ));
        }
        let port = u16::try_from(primary.number()?)
            .map_err(|_| MailboxError::Unexpected("a port".to_owned()))?;
        let node = primary.text()?;
        let mut members = vec![node.clone()];
        while let Ok(mut replica) = range.array() {
            replica.value()?;
            replica.value()?;
            members.push(replica.text()?);
        }
        members.sort();
        let address = like.server(host, port);
        let name = address.name();
        let index = servers.iter().position(|server| server.name == name);
        let index = index.unwrap_or_else(|| {
            servers.push(Server {
                name,
                address,
                node,
                members,
                slots: SlotSet::default(),
            });
            servers.len() - 1
        });
        (first..=last).for_each(|slot| servers[index].slots.insert(slot));
    }
    Ok(servers)
}

impl Link {
    /// The slots that the server has, but for those that are on their way to another server: some of
    /// their keys may be there.
    ///
    /// # Errors
    ///
    /// Where the server does not answer.
    pub async fn settled_slots(&self) -> Result<SlotSet, MailboxError> {
        let nodes: String = redis::cmd("CLUSTER")
            .arg("NODES")
            .query_async(&mut self.raw())
            .await
            .map_err(|error| self.judge(refused(error)))?;
        own_slots(&nodes).ok_or_else(|| MailboxError::Unexpected("CLUSTER NODES".to_owned()))
    }
}

/// Reads the server's own line of `CLUSTER NODES`: eight fields, then ranges of slots, and
/// `[slot->-node]` for each that is leaving.
fn own_slots(nodes: &str) -> Option<SlotSet> {
    let is_own = |line: &&str| {
        let flags = line.split(' ').nth(2).unwrap_or_default();
        flags.split(',').any(|flag| flag == "myself")
    };
    let own = nodes.lines().find(is_own)?;
    let mut settled = SlotSet::default();
    let mut leaving: Vec<u16> = Vec::new();
    for word in own.split(' ').skip(8) {
        match word.strip_prefix('[') {
            None => settled.add_all(&SlotSet::parse(word)?),
            Some(moving) => {
                if let Some((slot, _)) = moving.split_once("->-") {
                    leaving.push(slot.parse().ok()?);
                }
            }
        }
    }
    leaving.into_iter().for_each(|slot| settled.remove(slot));
    Some(settled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_slots_are_read() {
        let nodes = "\
            a1 127.0.0.1:1@2 master - 0 1 2 connected 5-9\n\
            b2 127.0.0.1:3@4,host myself,master - 0 0 1 connected 0-4 7 16383 [3->-a1] [90-<-a1]\n";
        assert_eq!(own_slots(nodes).unwrap().to_string(), "0-2,4,7,16383");
        assert!(own_slots("a1 127.0.0.1:1@2 master - 0 1 2 connected 5-9\n").is_none());
    }

    #[test]
    fn the_servers_are_read() {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let node = |host, port, id| Value::Array(vec![host, Value::Int(port), text(id)]);
        let range = |first, last, primary, replica| {
            Value::Array(vec![Value::Int(first), Value::Int(last), primary, replica])
        };
        let like = Address::parse("redis+cluster://:p@seed:1").unwrap();
        let ranges = vec![
            range(0, 9, node(text("a"), 1, "ia"), node(text("b"), 2, "ib")),
            range(10, 10, node(Value::Nil, 3, "ic"), node(text("d"), 4, "id")),
            range(20, 21, node(text("a"), 1, "ia"), node(text("b"), 2, "ib")),
        ];
        let servers = parse(ranges, &like, "asked").unwrap();
        let shown: Vec<_> = (servers.iter())
            .map(|server| {
                (
                    server.name.as_str(),
                    server.slots.to_string(),
                    server.members.len(),
                )
            })
            .collect();
        assert_eq!(
            shown,
            [
                ("a:1", "0-9,20-21".to_owned(), 2),
                ("asked:3", "10".to_owned(), 2)
            ]
        );
        let unknown = vec![range(
            0,
            1,
            node(text("?"), 1, "ia"),
            node(text("b"), 2, "ib"),
        )];
        assert!(parse(unknown, &like, "asked").is_err());
        let junk = vec![range(
            0,
            16_384,
            node(text("a"), 1, "ia"),
            node(text("b"), 2, "ib"),
        )];
        assert!(parse(junk, &like, "asked").is_err());
    }
}
