//! One whole Catchup: servers, gateways and workers, told apart from other tests' by its
//! namespace.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OnceCell;

use super::proxy::Proxy;
use super::role::{Kind, Role};
use super::servers::{NatsServer, RedisServer, Servers};
use super::socket::Socket;

/// A running system. Dropping it kills its processes and fails the test where one of them
/// had ended by itself, had panicked, or left something behind.
pub struct System {
    servers: Arc<Servers>,
    namespace: String,
    env: Vec<(String, String)>,
    gateway_flags: Vec<String>,
    gateways: Vec<Arc<Role>>,
    workers: Vec<Arc<Role>>,
    is_proxied: bool,
    /// By the role's name.
    links: BTreeMap<String, Links>,
    /// Other tests use the same roles: dropping this leaves them.
    is_shared: bool,
    client: OnceCell<async_nats::Client>,
}

/// The proxies between one role and its servers.
pub struct Links {
    pub nats: Proxy,
    pub redis: Proxy,
}

/// What a system is to be made of.
pub struct Builder {
    gateways: usize,
    workers: usize,
    servers: Option<Servers>,
    env: Vec<(String, String)>,
    gateway_flags: Vec<String>,
    is_proxied: bool,
}

impl System {
    /// One gateway and one worker on the shared servers, ready.
    pub async fn start() -> System {
        System::builder().start().await
    }

    /// Two gateways and two workers that many tests use at the same time, each with users of its
    /// own ([`user`]). Only for tests that neither count nor end anything of it.
    pub async fn shared() -> System {
        let builder = System::builder().gateways(2).workers(2);
        builder.start_shared("default").await
    }

    pub fn builder() -> Builder {
        Builder {
            gateways: 1,
            workers: 1,
            servers: None,
            env: Vec::new(),
            gateway_flags: Vec::new(),
            is_proxied: false,
        }
    }

    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    pub fn gateway(&self, index: usize) -> &Role {
        &self.gateways[index]
    }

    pub fn gateways(&self) -> &[Arc<Role>] {
        &self.gateways
    }

    pub fn worker(&self, index: usize) -> &Role {
        &self.workers[index]
    }

    pub fn workers(&self) -> &[Arc<Role>] {
        &self.workers
    }

    pub fn nats_server(&self) -> &NatsServer {
        &self.servers.nats
    }

    pub fn redis_server(&self) -> &RedisServer {
        &self.servers.redis
    }

    /// The proxies of a role of this system ([`Builder::proxied`]).
    pub fn links(&self, role: &Role) -> &Links {
        &self.links[role.name()]
    }

    /// Connects a user's default device to the first gateway.
    pub async fn connect(&self, user: &str) -> Socket {
        self.gateway(0).socket().user(user).connect().await
    }

    /// Starts one more gateway and waits until it is ready; returns its index.
    pub async fn add_gateway(&mut self) -> usize {
        let gateway = self.start_role(Kind::Gateway);
        gateway.ready().await;
        self.gateways.push(Arc::new(gateway));
        self.gateways.len() - 1
    }

    /// Starts one more worker and waits until it is ready; returns its index.
    pub async fn add_worker(&mut self) -> usize {
        let worker = self.start_role(Kind::Worker);
        worker.ready().await;
        self.workers.push(Arc::new(worker));
        self.workers.len() - 1
    }

    /// Waits until every role says that it is ready.
    pub async fn ready(&self) {
        for role in self.roles() {
            role.ready().await;
        }
    }

    /// The settings of this system's roles, for commands that talk to the same servers.
    pub fn env(&self) -> &[(String, String)] {
        &self.env
    }

    /// The sum over all roles of a metric with exactly these labels.
    pub async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let mut sum = 0.0;
        for role in self.roles() {
            sum += role.metrics().await.value(name, labels);
        }
        sum
    }

    pub(super) fn client_cell(&self) -> &OnceCell<async_nats::Client> {
        &self.client
    }

    /// The gateways, then the workers.
    pub fn roles(&self) -> impl Iterator<Item = &Role> {
        self.gateways
            .iter()
            .chain(&self.workers)
            .map(|role| &**role)
    }

    /// The same roles for another test.
    fn share(&self) -> System {
        System {
            servers: Arc::clone(&self.servers),
            namespace: self.namespace.clone(),
            env: self.env.clone(),
            gateway_flags: self.gateway_flags.clone(),
            gateways: self.gateways.clone(),
            workers: self.workers.clone(),
            is_proxied: false,
            links: BTreeMap::new(),
            is_shared: true,
            // A client lives and ends with the runtime of its test.
            client: OnceCell::new(),
        }
    }

    fn start_role(&mut self, kind: Kind) -> Role {
        let (name, flags) = match kind {
            Kind::Gateway => {
                let name = format!("gateway-{}", self.gateways.len() + 1);
                (name, self.gateway_flags.clone())
            }
            Kind::Worker => (format!("worker-{}", self.workers.len() + 1), Vec::new()),
        };
        let mut env = self.env.clone();
        if self.is_proxied {
            let links = Links {
                nats: Proxy::start(self.servers.nats.port()),
                redis: Proxy::start(self.servers.redis.port()),
            };
            let nats = format!("nats://127.0.0.1:{}", links.nats.port());
            let redis = format!("redis://127.0.0.1:{}", links.redis.port());
            env.push(("CATCHUP_NATS_URL".to_owned(), nats));
            env.push(("CATCHUP_REDIS_URL".to_owned(), redis));
            self.links.insert(name.clone(), links);
        }
        Role::start(kind, &name, flags, env)
    }
}

impl Builder {
    pub fn gateways(mut self, count: usize) -> Builder {
        self.gateways = count;
        self
    }

    pub fn workers(mut self, count: usize) -> Builder {
        self.workers = count;
        self
    }

    /// Servers of its own, which the test may kill, pause and wipe.
    pub fn own_servers(self) -> Builder {
        self.servers(Servers::start())
    }

    /// Servers of its own, started by the test.
    pub fn servers(mut self, servers: Servers) -> Builder {
        self.servers = Some(servers);
        self
    }

    /// A setting of every role. An empty value takes a default away, for example
    /// `CATCHUP_AUTH`.
    pub fn env(mut self, name: &str, value: &str) -> Builder {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Each role reaches its servers through proxies of its own: [`System::links`].
    pub fn proxied(mut self) -> Builder {
        self.is_proxied = true;
        self
    }

    /// The gateways serve the demo page, as under `catchup dev`.
    pub fn demo(mut self) -> Builder {
        self.gateway_flags.push("--demo".to_owned());
        self
    }

    /// Starts everything and waits until it is ready.
    pub async fn start(self) -> System {
        let system = self.start_unready();
        system.ready().await;
        system
    }

    /// Starts everything, or takes what an earlier call with this name started, and waits until
    /// it is ready. It lives as long as the tests; the name stands for everything set here.
    pub async fn start_shared(self, name: &'static str) -> System {
        assert!(
            !self.is_proxied,
            "a proxy ends with the runtime of its test"
        );
        static SYSTEMS: Mutex<BTreeMap<&str, System>> = Mutex::new(BTreeMap::new());
        let system = {
            let mut systems = SYSTEMS.lock().unwrap_or_else(PoisonError::into_inner);
            let system = systems.entry(name).or_insert_with(|| self.start_unready());
            system.share()
        };
        system.ready().await;
        system
    }

    /// Starts everything and does not wait.
    pub fn start_unready(self) -> System {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let namespace = format!("t{}-{number}", std::process::id());
        let servers = self.servers.map_or_else(Servers::shared, Arc::new);
        let mut env = vec![
            ("CATCHUP_NATS_URL".to_owned(), servers.nats.url()),
            ("CATCHUP_REDIS_URL".to_owned(), servers.redis.url()),
            ("CATCHUP_NAMESPACE".to_owned(), namespace.clone()),
        ];
        env.extend(self.env);
        let mut system = System {
            servers,
            namespace,
            env,
            gateway_flags: self.gateway_flags,
            gateways: Vec::new(),
            workers: Vec::new(),
            is_proxied: self.is_proxied,
            links: BTreeMap::new(),
            is_shared: false,
            client: OnceCell::new(),
        };
        for _ in 0..self.gateways {
            let gateway = system.start_role(Kind::Gateway);
            system.gateways.push(Arc::new(gateway));
        }
        for _ in 0..self.workers {
            let worker = system.start_role(Kind::Worker);
            system.workers.push(Arc::new(worker));
        }
        system
    }
}

impl Drop for System {
    fn drop(&mut self) {
        let faults: Vec<String> = self.roles().filter_map(Role::fault).collect();
        if !self.is_shared {
            for role in self.roles() {
                role.kill();
            }
        }
        if std::thread::panicking() {
            // The test harness shows this with the failure.
            for role in self.roles() {
                for line in role.log().lines() {
                    println!("{} | {line}", role.name());
                }
            }
        } else {
            assert!(faults.is_empty(), "at the end of the test: {faults:?}");
        }
    }
}

/// A user id that no other test has.
pub fn user(name: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("{name}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}
