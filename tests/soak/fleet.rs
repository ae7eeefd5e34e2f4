//! The farm of the soak. Each program reaches Redis through its own proxy, which can be cut. An api
//! that is replaced keeps its port.

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

/// JavaScript contracts that record their calls.
const CONTRACTS: usize = 8;

/// Docker contracts.
const CONTAINERS: usize = 3;

/// How long the farm may take to recover: data of a killed api is removed after a minute.
const RECOVERY: Duration = Duration::from_secs(90);

const WORKERS: usize = 3;
const APIS: usize = 2;

/// A running program and its proxy to Redis.
pub(crate) struct ProxiedProcess {
    /// Its index among the farm's processes.
    pub(crate) index: usize,
    pub(crate) proxy: Proxy,
}

/// A farm and its running programs.
pub(crate) struct Fleet {
    pub(crate) farm: Farm,
    pub(crate) containers: Containers,
    pub(crate) workers: Vec<ProxiedProcess>,
    pub(crate) apis: Vec<ProxiedProcess>,
    ports: Vec<u16>,
}

impl Fleet {
    /// Starts everything and loads the contracts of both kinds.
    pub(crate) async fn start() -> (Self, Vec<String>, Vec<String>) {
        let containers = Containers::start().await;
        let farm = Farm::builder()
            .apis(0)
            .workers(0)
            // Shorter than the defaults, so that a soak reaches these limits often.
            .env("REAP_GRACE_MS", "3000")
            .env("QUARANTINE_MS", "2000")
            .env("CONTAINER_SWEEP_MS", "2000")
            .env("WORKER_ENGINES", "javascript,docker")
            .env("CONTAINER_IMAGES", "execution-test/*")
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
            let process = fleet.open_api(place).await;
            fleet.apis.push(process);
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

    /// One client for each api's port, whichever process listens there.
    pub(crate) fn clients(&self) -> Vec<Client> {
        self.ports.iter().map(|port| Client::new(*port)).collect()
    }

    /// Starts one more worker.
    pub(crate) async fn add_worker(&mut self) {
        let proxy = Proxy::start(self.farm.redis.port()).await;
        let member = self.farm.join_with(&[("REDIS_URL", &proxy.url())]).await;
        self.workers.push(ProxiedProcess {
            index: member.index,
            proxy,
        });
    }

    async fn open_api(&mut self, place: usize) -> ProxiedProcess {
        let proxy = Proxy::start(self.farm.redis.port()).await;
        let port = self.ports[place].to_string();
        let env = [("REDIS_URL", proxy.url()), ("EXECUTION_API_PORT", port)];
        let env = env.each_ref().map(|(name, value)| (*name, value.as_str()));
        self.farm.spawn_api(&env);
        // The farm recorded another port for this api, so its client is replaced.
        self.farm.clients.pop();
        let client = Client::new(self.ports[place]);
        self.farm.api_answers(&client).await;
        ProxiedProcess {
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

    /// Ends a worker, waits for its exit, and checks its exit status.
    pub(crate) async fn end_worker(&mut self, place: usize, signal: Signal) {
        let removed = self.workers.remove(place);
        let process = &mut self.farm.workers[removed.index];
        process.signal(signal);
        let status = process.end(DEFAULT_LIMIT).await;
        assert!(
            signal == Signal::SIGKILL || status.success(),
            "{}: {status}",
            process.name()
        );
    }

    /// Replaces an api with a new one on the same port.
    pub(crate) async fn replace_api(&mut self, place: usize, signal: Signal) {
        let process = self.api(place);
        process.signal(signal);
        let status = process.end(DEFAULT_LIMIT).await;
        assert!(signal == Signal::SIGKILL || status.success(), "{status}");
        self.apis[place] = self.open_api(place).await;
    }

    /// Waits until a worker that was killed no longer counts as the owner of its contracts.
    pub(crate) async fn wait_until_deaths_are_known(&self) {
        let alive = self.workers.len();
        wait::until_true("only living workers to be listed", RECOVERY, async || {
            self.farm.client().workers().await.len() == alive
        })
        .await;
    }

    /// Calls every unassigned contract: a call after the quarantine restores it.
    pub(crate) async fn call_unassigned_contracts(&self) {
        wait::until_true("every contract to have an owner", RECOVERY, async || {
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

    /// Waits until only loaded contracts refer to executables. A program may have been killed
    /// before it removed its reference.
    async fn wait_until_no_reference_is_stale(&self) {
        wait::until_true("stale references to go", RECOVERY, async || {
            let loaded = self.farm.client().contracts().await;
            for key in self
                .farm
                .redis_command::<Vec<String>>(&["KEYS", "*}:refs"])
                .await
            {
                let references: Vec<String> = self.farm.redis_command(&["SMEMBERS", &key]).await;
                let is_loaded = |reference: &String| {
                    let (address, _) = reference.split_once('@').expect("it names its load");
                    loaded.iter().any(|c| c["contractAddress"] == address)
                };
                if !references.iter().all(is_loaded) {
                    return false;
                }
            }
            true
        })
        .await;
    }

    /// Waits until the farm has recovered and ends it. Fails on any leftovers.
    pub(crate) async fn close(mut self) {
        self.call_unassigned_contracts().await;
        self.farm.wait_until_recovered_within(RECOVERY).await;
        self.containers.wait_until_count_is(CONTAINERS).await;
        self.wait_until_no_reference_is_stale().await;
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
