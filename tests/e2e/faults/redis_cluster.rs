//! Servers of a Redis Cluster are killed, and its slots moved, under load.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::json;

use super::redis_down::{answers, is_refused_at_once};
use super::{builder, generations, load_recorders, shared, under_load};
use crate::support::call_log::{CONTRACT, CallLog, percentile};
use crate::support::client::Client;
use crate::support::farm::Farm;
use crate::support::load::{Load, Pace};
use crate::support::scrape::Scrape;
use crate::support::wait::{self, DEFAULT_LIMIT};
use redis_servers::{Kind, Role};

/// How a call may end while the server that it needs is away.
const AFFECTED: [&str; 3] = ["ok", "queue_unavailable", "outcome_unknown"];

/// How soon calls are answered that need no server that is away, on a busy machine: less than any
/// failover takes.
const PROMPT: Duration = Duration::from_secs(1);

/// More contracts than servers, so that each server has keys of some.
const CONTRACTS: usize = 12;

/// A cluster with a farm of which a part needs one server.
struct Shards {
    farm: Farm,
    /// The server, by its place among the servers.
    server: usize,
    /// The contracts whose record or whose owner's inbox are there.
    affected: Vec<String>,
    /// All others.
    others: Vec<String>,
}

impl Shards {
    /// Starts workers until their inboxes are on two servers.
    async fn start() -> Self {
        let mut farm = builder()
            .redis(Kind::Cluster)
            .apis(2)
            .workers(2)
            .start()
            .await;
        while inbox_servers(&farm).await.len() < 2 {
            farm.add_worker().await;
        }
        let client = farm.client().clone();
        let mut addresses = load_recorders(&client, CONTRACTS).await;
        // Contracts are not spread evenly over so few workers.
        loop {
            for server in inbox_servers(&farm).await {
                let (affected, others) = divide(&farm, &addresses, server).await;
                if affected.len() >= 3 && others.len() >= 3 {
                    return Self {
                        farm,
                        server,
                        affected,
                        others,
                    };
                }
            }
            let address = format!("c{}", addresses.len());
            client.must_load(&address, CONTRACT).await;
            addresses.push(address);
        }
    }

    fn name(&self) -> String {
        let server = &self.farm.redis.several().servers()[self.server];
        format!("127.0.0.1:{}", server.port())
    }

    /// Calls all contracts: a steady load of each part.
    async fn load(&self) -> [Load; 2] {
        // Each api knows the owners before the fault.
        for client in &self.farm.clients {
            for address in self.affected.iter().chain(&self.others) {
                client.execute(address, "known", &json!([])).await.data();
            }
        }
        let pace = Pace {
            callers: 20,
            ..Pace::STEADY
        };
        let loads = [&self.affected, &self.others]
            .map(|addresses| Load::start(&self.farm.clients, addresses, pace));
        for load in &loads {
            load.full_pace().await;
        }
        loads
    }

    fn kill(&mut self, server: usize) {
        self.farm.redis.several_mut().server_mut(server).kill();
    }

    /// Waits until every api names these servers as unavailable.
    async fn are_named(&self, servers: &[String]) {
        for client in &self.farm.clients {
            wait::until_true("the server to be named", DEFAULT_LIMIT, async || {
                unavailable_servers(client).await == servers
            })
            .await;
        }
    }
}

/// What `/readyz` says.
async fn unavailable_servers(client: &Client) -> Vec<String> {
    let ready = client.get("/readyz").await.json();
    let names = ready["unavailableServers"].as_array().cloned();
    let names = names.unwrap_or_default().into_iter();
    names
        .map(|name| name.as_str().expect("a name is text").to_owned())
        .collect()
}

/// The servers that have the inboxes of the workers.
async fn inbox_servers(farm: &Farm) -> BTreeSet<usize> {
    let mut servers = BTreeSet::new();
    for worker in farm.redis.workers(farm.prefix()).await {
        servers.insert(server_of(farm, &inbox(&worker)).await);
    }
    servers
}

/// The server that has the record of a contract. None if it is away.
async fn record_server(farm: &Farm, address: &str) -> Option<usize> {
    let key = format!("{}{}", farm.prefix(), record(address));
    farm.redis.several().find(&key).await
}

async fn server_of(farm: &Farm, key: &str) -> usize {
    let key = format!("{}{key}", farm.prefix());
    farm.redis.several().server_of(&key).await
}

fn inbox(worker: &str) -> String {
    format!("{{w:{worker}}}:in")
}

fn record(address: &str) -> String {
    format!("{{c:{address}}}")
}

/// Divides contracts into those that need a server, and those that do not.
async fn divide(farm: &Farm, addresses: &[String], server: usize) -> (Vec<String>, Vec<String>) {
    let (mut affected, mut others) = (Vec::new(), Vec::new());
    for address in addresses {
        let owner = farm.client().owner(address).await;
        let owner = owner.expect("a contract that was just loaded is owned");
        let needs = [
            server_of(farm, &record(address)).await,
            server_of(farm, &inbox(&owner)).await,
        ];
        let part = if needs.contains(&server) {
            &mut affected
        } else {
            &mut others
        };
        part.push(address.clone());
    }
    (affected, others)
}

/// Checks that calls went on as if nothing had happened.
async fn is_undisturbed(log: &CallLog, client: &Client) {
    log.check(client, &["ok"]).await;
    let most = percentile(99, &log.calls);
    assert!(most < PROMPT, "{most:?}");
}

/// Other shards are not disturbed, and the calls of this one resume.
#[tokio::test]
async fn fault_34_kill_the_primary_of_one_shard() {
    let _machine = shared().await;
    let mut shards = Shards::start().await;
    let (client, name) = (shards.farm.client().clone(), shards.name());
    let before = generations(&client, &shards.others).await;
    let [affected, others] = shards.load().await;
    shards.farm.redis.several().replicated().await;
    let killed = Instant::now();
    shards.kill(shards.server);
    shards.are_named(std::slice::from_ref(&name)).await;
    eprintln!("kill until it is named: {:.2?}", killed.elapsed());
    assert_eq!(client.farm_status().await.as_deref(), Some("degraded"));
    let series = format!("execution_api_redis_server_available{{server=\"{name}\"}}");
    assert_eq!(Scrape::of(&client).await.count(&series), 0);
    assert!(shards.farm.apis[0].log().contains(&name));
    let resumed = affected.full_pace().await;
    eprintln!("kill until full pace: {:.2?}", killed.elapsed());
    eprintln!("of that, waited for full pace: {resumed:.2?}");
    shards.are_named(&[]).await;
    is_undisturbed(&others.end().await, &client).await;
    affected.end().await.check(&client, &AFFECTED).await;
    assert_eq!(
        generations(&client, &shards.others).await,
        before,
        "contracts of other shards were recreated"
    );
    shards.farm.wait_until_recovered().await;
    shards.farm.stop().await;
}

/// Slots go from server to server, each with keys of every kind, and no call fails.
#[tokio::test]
async fn fault_36_move_slots() {
    let _machine = shared().await;
    let (mut farm, addresses, load) = under_load(Kind::Cluster).await;
    let client = farm.client().clone();
    let before = generations(&client, &addresses).await;
    let prefix = farm.prefix().to_owned();
    let apis: Vec<String> = farm
        .redis_command(&["ZRANGE", &format!("{prefix}apis"), "0", "-1"])
        .await;
    let workers = farm.redis.workers(&prefix).await;
    let mut keys: Vec<_> = workers.iter().map(|worker| inbox(worker)).collect();
    keys.extend(apis.iter().map(|api| format!("{{a:{api}}}:re")));
    keys.extend(addresses.iter().map(|address| record(address)));
    let registries = ["workers", "apis", "contracts", "place:javascript"];
    keys.extend(registries.map(str::to_owned));
    for key in &keys {
        let from = server_of(&farm, key).await;
        let (key, pause) = (format!("{prefix}{key}"), Duration::from_millis(20));
        let redis = farm.redis.several();
        redis.move_slot(&key, from, (from + 1) % 3, pause).await;
    }
    eprintln!("{} slots moved", keys.len());
    client.must_load("late", CONTRACT).await;
    client.execute("late", "known", &json!([])).await.data();
    load.full_pace().await;
    load.end().await.check(&client, &["ok"]).await;
    assert_eq!(
        generations(&client, &addresses).await,
        before,
        "contracts were recreated"
    );
    farm.wait_until_recovered().await;
    farm.stop().await;
}

/// The servers are restarted one by one, as for an upgrade: each primary hands its slots over to its
/// replica before.
#[tokio::test]
async fn fault_36_restart_the_servers_one_by_one() {
    let _machine = shared().await;
    let (mut farm, addresses, load) = under_load(Kind::Cluster).await;
    let client = farm.client().clone();
    let before = generations(&client, &addresses).await;
    for primary in 0..3 {
        let redis = farm.redis.several();
        let replicas = redis.replicas_of(primary).await;
        let replica = replicas[0];
        farm.redis.several_mut().server_mut(replica).kill();
        farm.redis.several_mut().server_mut(replica).restart();
        let redis = farm.redis.several();
        redis.replicated().await;
        redis.servers()[replica]
            .command::<()>(&["CLUSTER", "FAILOVER"])
            .await;
        redis.becomes(replica, Role::Primary).await;
        redis.becomes(primary, Role::Replica).await;
        redis.replicated().await;
        farm.redis.several_mut().server_mut(primary).kill();
        farm.redis.several_mut().server_mut(primary).restart();
        load.full_pace().await;
    }
    load.end().await.check(&client, &["ok"]).await;
    assert_eq!(
        generations(&client, &addresses).await,
        before,
        "contracts were recreated"
    );
    farm.wait_until_recovered().await;
    farm.stop().await;
}

/// Replicas are only for failovers.
#[tokio::test]
async fn fault_39_kill_all_replicas() {
    let _machine = shared().await;
    let (mut farm, _, load) = under_load(Kind::Cluster).await;
    let client = farm.client().clone();
    for server in 3..6 {
        farm.redis.several_mut().server_mut(server).kill();
    }
    // Longer than the others need to notice it.
    wait::pass(Duration::from_secs(4)).await;
    client.must_load("late", CONTRACT).await;
    assert_eq!(client.farm_status().await.as_deref(), Some("ready"));
    load.full_pace().await;
    load.end().await.check(&client, &["ok"]).await;
    farm.wait_until_recovered().await;
    farm.stop().await;
}

/// A primary and its replica are gone: nothing can take their place. They come back without data.
#[tokio::test]
async fn fault_40_lose_one_shard() {
    let _machine = shared().await;
    let mut shards = Shards::start().await;
    let (client, name) = (shards.farm.client().clone(), shards.name());
    let [affected, others] = shards.load().await;
    let replicas = shards.farm.redis.several().replicas_of(shards.server).await;
    for server in replicas.iter().copied().chain([shards.server]) {
        shards.kill(server);
    }
    let killed = Instant::now();
    shards.are_named(std::slice::from_ref(&name)).await;
    // These lack only the inbox of their worker, which takes an id with an inbox elsewhere.
    let mut movable = Vec::new();
    for address in &shards.affected {
        if record_server(&shards.farm, address).await.is_some() {
            movable.push(address);
        }
    }
    if let Some(address) = movable.first() {
        is_refused_at_once(&client, address).await;
    }
    for address in movable {
        answers(&client, address).await;
    }
    eprintln!(
        "kill until only records are missing: {:.2?}",
        killed.elapsed()
    );
    assert_eq!(client.farm_status().await.as_deref(), Some("degraded"));
    shards.are_named(std::slice::from_ref(&name)).await;
    is_undisturbed(&others.end().await, &client).await;
    for server in replicas.into_iter().chain([shards.server]) {
        let redis = shards.farm.redis.several_mut();
        redis.server_mut(server).restart();
    }
    shards.are_named(&[]).await;
    affected.full_pace().await;
    affected.end().await.check(&client, &AFFECTED).await;
    shards.farm.wait_until_recovered().await;
    shards.farm.stop().await;
}

/// The replicas of one shard lack its last writes when they take its place.
#[tokio::test]
async fn fault_37_a_failover_loses_writes() {
    let _machine = shared().await;
    let mut shards = Shards::start().await;
    let client = shards.farm.client().clone();
    let [affected, others] = shards.load().await;
    let redis = shards.farm.redis.several();
    redis.replicated().await;
    let replicas = redis.replicas_of(shards.server).await;
    redis.cut_replication(shards.server).await;
    // It is loaded in the time that will be lost.
    let mut number = 0;
    while server_of(&shards.farm, &record(&format!("late{number}"))).await != shards.server {
        number += 1;
    }
    let late = format!("late{number}");
    client.must_load(&late, CONTRACT).await;
    wait::pass(Duration::from_secs(1)).await;
    shards.kill(shards.server);
    let redis = shards.farm.redis.several();
    redis.becomes(replicas[0], Role::Primary).await;
    affected.full_pace().await;
    is_undisturbed(&others.end().await, &client).await;
    affected.end().await.check(&client, &AFFECTED).await;
    // Its owner has it, and writes it again.
    answers(&client, &late).await;
    shards.farm.wait_until_recovered().await;
    shards.farm.stop().await;
}
