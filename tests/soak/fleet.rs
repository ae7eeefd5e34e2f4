//! The farm of the soak: each program has a way to Redis of its own, that can be cut, and an api
//! that was replaced is found where the old one was.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::containers::Containers;
use crate::support::call_log::CONTRACT;
use crate::support::client::{Client, send};
use crate::support::farm::Farm;
use crate::support::process::Process;
use crate::support::programs::free_port;
use crate::support::proxy::Proxy;
use crate::support::wait::{self, DEFAULT_LIMIT};

/// Contracts that keep books.
const CONTRACTS: usize = 8;

/// Docker contracts.
const CONTAINERS: usize = 3;

/// How long the farm may take to heal: what an api leaves behind that was killed goes after a
/// minute.
const HEALED: Duration = Duration::from_secs(90);

const WORKERS: usize = 3;
const APIS: usize = 2;

/// One program at work.
pub(crate) struct Post {
    /// Its place among the farm's processes.
    pub(crate) index: usize,
    pub(crate) proxy: Proxy,
}

/// A farm, and who works in it at the moment.
pub(crate) struct Fleet {
    pub(crate) farm: Farm,
    pub(crate) containers: Containers,
    pub(crate) workers: Vec<Post>,
    pub(crate) apis: Vec<Post>,
    ports: Vec<u16>,
}

impl Fleet {
    /// Starts everything and loads the contracts: book-keepers, and those in containers.
    pub(crate) async fn start() -> (Self, Vec<String>, Vec<String>) {
        let containers = Containers::start().await;
        let farm = Farm::builder()
            .apis(0)
            .workers(0)
            // Shorter than their defaults, so that a soak meets them often.
            .env("REAP_GRACE_MS", "3000")
            .env("QUARANTINE_MS", "2000")
            .env("CONTAINER_SWEEP_MS", "2000")
            .env("WORKER_ENGINES", "javascript,docker")
            .start()
            .await;
        farm.enable_append_only_file().await;
        let mut fleet = Self {
            farm,
            containers,
            workers: Vec::new(),
            apis: Vec::new(),
            ports: (0..APIS).map(|_| free_port()).collect(),
        };
        for _ in 0..WORKERS {
            fleet.add_worker().await;
        }
        for place in 0..APIS {
            let post = fleet.open_api(place).await;
            fleet.apis.push(post);
        }
        fleet.farm.clients = fleet.clients();
        let addresses: Vec<String> = (0..CONTRACTS).map(|number| format!("c{number}")).collect();
        for address in &addresses {
            fleet.farm.client().must_load(address, CONTRACT).await;
        }
        let in_containers: Vec<String> = (0..CONTAINERS).map(|n| format!("d{n}")).collect();
        for address in &in_containers {
            let client = fleet.farm.client();
            fleet.containers.load(client, address).await;
        }
        (fleet, addresses, in_containers)
    }

    /// One for each api, whichever process it is.
    pub(crate) fn clients(&self) -> Vec<Client> {
        self.ports.iter().map(|port| Client::new(*port)).collect()
    }

    /// One more worker.
    pub(crate) async fn add_worker(&mut self) {
        let proxy = Proxy::start(self.farm.redis.port()).await;
        let member = self.farm.join_with(&[("REDIS_URL", &proxy.url())]).await;
        self.workers.push(Post {
            index: member.index,
            proxy,
        });
    }

    async fn open_api(&mut self, place: usize) -> Post {
        let proxy = Proxy::start(self.farm.redis.port()).await;
        let port = self.ports[place].to_string();
        let env = [("REDIS_URL", proxy.url()), ("EXECUTION_API_PORT", port)];
        let env = env.each_ref().map(|(name, value)| (*name, value.as_str()));
        self.farm.spawn_api(&env);
        // The farm thinks that it listens elsewhere.
        self.farm.clients.pop();
        let client = Client::new(self.ports[place]);
        self.farm.api_answers(&client).await;
        Post {
            index: self.farm.apis.len() - 1,
            proxy,
        }
    }

    pub(crate) fn worker(&mut self, place: usize) -> &mut Process {
        &mut self.farm.workers[self.workers[place].index]
    }

    pub(crate) fn api(&mut self, place: usize) -> &mut Process {
        &mut self.farm.apis[self.apis[place].index]
    }

    /// Ends a worker and waits for that; gives whether it ended well.
    pub(crate) async fn end_worker(&mut self, place: usize, signal: Signal) {
        let post = self.workers.remove(place);
        let process = &mut self.farm.workers[post.index];
        process.signal(signal);
        let status = process.end(DEFAULT_LIMIT).await;
        assert!(
            signal == Signal::SIGKILL || status.success(),
            "{}: {status}",
            process.name()
        );
    }

    /// Puts another api where one was.
    pub(crate) async fn replace_api(&mut self, place: usize, signal: Signal) {
        let process = self.api(place);
        process.signal(signal);
        let status = process.end(DEFAULT_LIMIT).await;
        assert!(signal == Signal::SIGKILL || status.success(), "{status}");
        self.apis[place] = self.open_api(place).await;
    }

    /// Calls every contract that nobody hosts: after a quarantine that is what brings it back.
    pub(crate) async fn wake(&self) {
        wait::until_true("every contract to have a host", HEALED, async || {
            let mut all = true;
            for contract in self.farm.client().contracts().await {
                if contract["host"].is_null() {
                    let address = contract["contractAddress"].as_str();
                    let address = address.expect("an address is text");
                    self.farm.client().call(address, "known").await;
                    all = false;
                }
            }
            all
        })
        .await;
    }

    /// Waits until only loaded contracts refer to executables: whoever was to drop a reference may
    /// have been killed.
    async fn has_no_stale_reference(&self) {
        wait::until_true("stale references to go", HEALED, async || {
            let loaded = self.farm.client().contracts().await;
            for key in self
                .farm
                .redis_command::<Vec<String>>(&["KEYS", "*}:refs"])
                .await
            {
                let references: Vec<String> = self.farm.redis_command(&["SMEMBERS", &key]).await;
                let is_loaded = |address| loaded.iter().any(|c| c["contractAddress"] == address);
                if !references.iter().all(|address| is_loaded(address.as_str())) {
                    return false;
                }
            }
            true
        })
        .await;
    }

    /// Waits until the farm has healed, and ends it; fails on whatever is left.
    pub(crate) async fn close(mut self) {
        self.wake().await;
        self.farm.wait_until_recovered_within(HEALED).await;
        self.containers.are_just(CONTAINERS).await;
        self.has_no_stale_reference().await;
        for letter in self.farm.client().dead_letters().await {
            let path = format!(
                "/dead-letters/{}",
                letter["id"].as_str().expect("an id is text")
            );
            let delete = self.farm.client().request(reqwest::Method::DELETE, &path);
            send(delete).await.is_no_content();
        }
        self.farm
            .redis_command::<()>(&["DEL", "exec:dead-letters"])
            .await;
        self.farm.stop().await;
        self.containers.end().await;
    }
}
