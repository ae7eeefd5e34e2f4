//! A large farm: what it costs while nothing is called, how long listings take, and what happens
//! when many workers die at once.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::iter;
use redis_servers::Redis;
use shared::protocol::id::ContractAddress;
use shared::protocol::job::{ContractSpec, EngineKind, Limits};
use shared::queue::Queue;
use shared::queue::blobs;

use super::Extent;
use super::crowd::{Calling, Crowd};
use super::servers::Servers;
use super::throughput::count;
use super::worker::REAPER;
use crate::latencies::Latencies;

/// Contracts that share an executable.
const CONTRACTS_OF_AN_EXECUTABLE: usize = 100;
/// Workers that load contracts at once.
const LOADERS: usize = 64;
/// Room of each worker for contracts of others, when it owns its share.
const SPARE: usize = 28;
/// How long the farm runs before it is watched.
const SETTLE: Duration = Duration::from_secs(3);
/// Callers of each api while workers die: few, so that the calls themselves wait for nothing.
const CALLERS: usize = 2;
/// How often listings are repeated.
const LISTINGS: usize = 20;
const PAGE: usize = 100;
const LONG_PAGE: usize = 1000;
/// Within which time the contracts of dead workers must have other owners.
const PATIENCE: Duration = Duration::from_mins(3);

/// What was measured.
#[derive(Debug, Default)]
pub(super) struct Farm {
    /// Bytes of Redis: its connections, and everything that it holds of a worker.
    pub(super) bytes_a_worker: f64,
    pub(super) connections_a_worker: f64,
    pub(super) bytes_a_contract: f64,
    /// Microseconds of processor time of Redis.
    pub(super) redis_a_load: f64,
    /// Parts of a core, and commands a second, while nothing is called.
    pub(super) idle: Idle,
    /// The same with all contracts.
    pub(super) idle_with_contracts: Idle,
    /// Seconds, and seconds of processor time of Redis.
    pub(super) sweep: [f64; 2],
    /// Milliseconds, medians.
    pub(super) page: f64,
    pub(super) list_workers: f64,
    pub(super) presence: f64,
    /// Seconds.
    pub(super) list_all: f64,
    pub(super) storm: Storm,
}

/// What Redis does while nothing is called.
#[derive(Debug, Default)]
pub(super) struct Idle {
    pub(super) core: f64,
    pub(super) commands_a_second: f64,
    /// The commands that take most time: name, calls a second, part of a core.
    pub(super) most: Vec<(String, f64, f64)>,
}

/// The death of many workers at once.
#[derive(Debug, Default)]
pub(super) struct Storm {
    pub(super) contracts: usize,
    /// Seconds from the deaths to the first and to the last contract with another owner.
    pub(super) first: f64,
    pub(super) last: f64,
    /// Parts of a core from the first to the last.
    pub(super) core: f64,
    /// Milliseconds of calls to other workers: p50 and p99, before and during.
    pub(super) before: [f64; 2],
    pub(super) during: [f64; 2],
    pub(super) most: Vec<(String, f64, f64)>,
}

/// Measures all of it.
pub(super) async fn run(extent: &Extent) -> Farm {
    let redis = Redis::on_port();
    let servers = Servers::find();
    let mut farm = Farm::default();
    let empty = memory(&redis).await;
    let capacity = extent.contracts / extent.workers + SPARE;
    let mut crowd = Crowd::start(&redis.config(), extent.apis, extent.workers, capacity).await;
    crowd.maintain();
    tokio::time::sleep(SETTLE).await;
    farm.idle = watch(&redis, &servers, SETTLE.max(extent.idle / 3)).await;
    let workers = count(extent.workers as u64);
    let started = memory(&redis).await;
    farm.bytes_a_worker = (started - empty) / workers;
    farm.connections_a_worker = info(&redis, "clients", "connected_clients").await / workers;
    let before = servers.processor();
    load(extent, &crowd).await;
    let contracts = count(extent.contracts as u64);
    farm.redis_a_load = (servers.processor()[0] - before[0]) / contracts;
    farm.bytes_a_contract = (memory(&redis).await - started) / contracts;
    eprintln!("scale: {} contracts are loaded", extent.contracts);
    farm.idle_with_contracts = watch(&redis, &servers, extent.idle).await;
    list(&mut farm, &crowd.apis[0].queue, &servers).await;
    farm.storm = storm(extent, &redis, &servers, &mut crowd).await;
    crowd.end().await;
    eprintln!("scale: {farm:#?}");
    farm
}

async fn load(extent: &Extent, crowd: &Crowd) {
    let queue = &crowd.apis[0].queue;
    let executables = extent.contracts.div_ceil(CONTRACTS_OF_AN_EXECUTABLE);
    let mut digests = Vec::new();
    for number in 0..executables {
        let executable = format!("const init = () => ({{ add: (a, b) => a + b + {number} }});");
        let digest = blobs::digest(executable.as_bytes());
        let minutes = Duration::from_mins(10);
        let staged = queue.stage_blob(&digest, executable.as_bytes(), minutes);
        staged.await.expect("Redis takes executables");
        digests.push(digest);
    }
    let digests = &digests;
    let share = extent.contracts / extent.workers;
    let loading = crowd
        .workers
        .iter()
        .enumerate()
        .map(async |(index, worker)| {
            for number in index * share..(index + 1) * share {
                let address = address(number);
                let spec = spec(&digests[number % executables]);
                worker
                    .load(&address, &spec)
                    .await
                    .expect("Redis takes contracts");
            }
        });
    iter(loading)
        .buffer_unordered(LOADERS)
        .collect::<()>()
        .await;
}

fn address(number: usize) -> ContractAddress {
    format!("contract-{number}")
        .parse()
        .expect("it is an address")
}

fn spec(digest: &str) -> ContractSpec {
    ContractSpec {
        engine: EngineKind::Javascript,
        digest: digest.to_owned(),
        limits: Limits::default(),
        idempotent: false,
        replicas: 1,
        keep_logs: false,
    }
}

/// What Redis does for some time.
async fn watch(redis: &Redis, servers: &Servers, span: Duration) -> Idle {
    let (times, start) = (command_times(redis).await, Instant::now());
    let before = servers.processor();
    tokio::time::sleep(span).await;
    let used = servers.processor()[0] - before[0];
    let seconds = start.elapsed().as_secs_f64();
    let most = differences(&times, &command_times(redis).await, seconds);
    Idle {
        core: used / seconds / 1e6,
        commands_a_second: most.iter().map(|(_, calls, _)| calls).sum(),
        most: most.into_iter().take(6).collect(),
    }
}

/// The calls of each command so far, and its microseconds.
type Times = BTreeMap<String, (f64, f64)>;

async fn command_times(redis: &Redis) -> Times {
    let text: String = redis.command(&["INFO", "commandstats"]).await;
    let mut times = Times::new();
    for line in text.lines() {
        let Some((name, rest)) = line
            .strip_prefix("cmdstat_")
            .and_then(|line| line.split_once(':'))
        else {
            continue;
        };
        let field = |name: &str| {
            let mut fields = rest.split(',').filter_map(|field| field.split_once('='));
            let (_, value) = fields.find(|(field, _)| *field == name)?;
            value.parse::<f64>().ok()
        };
        let found = field("calls").zip(field("usec"));
        times.insert(name.to_owned(), found.expect("Redis counts commands"));
    }
    times
}

/// Commands by the time that they took: name, calls a second, part of a core.
fn differences(before: &Times, after: &Times, seconds: f64) -> Vec<(String, f64, f64)> {
    let mut all: Vec<_> = after
        .iter()
        .map(|(name, (calls, micros))| {
            let (calls_before, micros_before) = before.get(name).copied().unwrap_or_default();
            let core = (micros - micros_before) / seconds / 1e6;
            (name.clone(), (calls - calls_before) / seconds, core)
        })
        .collect();
    all.sort_by(|(_, _, one), (_, _, other)| other.total_cmp(one));
    all
}

async fn memory(redis: &Redis) -> f64 {
    info(redis, "memory", "used_memory").await
}

async fn info(redis: &Redis, section: &str, field: &str) -> f64 {
    let text: String = redis.command(&["INFO", section]).await;
    let mut fields = text.lines().filter_map(|line| line.trim().split_once(':'));
    let found = fields.find(|(name, _)| *name == field);
    found
        .and_then(|(_, value)| value.parse().ok())
        .expect("Redis reports it")
}

/// Listings as `GET /contracts`, `GET /workers` and `GET /readyz` make them, and a sweep.
async fn list(farm: &mut Farm, queue: &Queue, servers: &Servers) {
    farm.page = median(async || {
        let page = queue.list_contracts(None, PAGE).await.expect("Redis lists");
        assert_eq!(page.contracts.len(), PAGE);
    })
    .await;
    farm.list_workers = median(async || {
        assert!(!queue.workers().await.expect("Redis lists").is_empty());
    })
    .await;
    farm.presence = median(async || {
        let presence = queue.presence(REAPER).await.expect("Redis counts");
        assert!(presence.connected > 0);
    })
    .await;
    let (start, mut next) = (Instant::now(), None);
    loop {
        let page = queue.list_contracts(next.as_ref(), LONG_PAGE).await;
        next = page.expect("Redis lists").next;
        if next.is_none() {
            break;
        }
    }
    farm.list_all = start.elapsed().as_secs_f64();
    let (start, before) = (Instant::now(), servers.processor());
    assert!(
        queue.sweep().await.expect("Redis sweeps"),
        "nobody else does"
    );
    let used = servers.processor()[0] - before[0];
    farm.sweep = [start.elapsed().as_secs_f64(), used / 1e6];
}

/// Milliseconds.
async fn median(mut step: impl AsyncFnMut()) -> f64 {
    let mut times = Vec::new();
    for _ in 0..LISTINGS {
        let start = Instant::now();
        step().await;
        times.push(start.elapsed());
    }
    Latencies::new(times).all_but_one_in(2)
}

/// Many workers die at once, while others are called.
async fn storm(extent: &Extent, redis: &Redis, servers: &Servers, crowd: &mut Crowd) -> Storm {
    let dying: Vec<_> = crowd.workers.drain(..extent.deaths).collect();
    let contracts: usize = dying.iter().map(|worker| worker.owns()).sum();
    let calling = Calling {
        callers: CALLERS,
        in_a_frame: 1,
        interval: Duration::ZERO,
    };
    let calling = crowd.call(&crowd.workers, calling);
    tokio::time::sleep(SETTLE).await;
    let before = latencies(crowd, extent.span).await;
    crowd.record(true);
    let (died, times) = (Instant::now(), command_times(redis).await);
    iter(dying)
        .for_each_concurrent(None, async |worker| worker.die().await)
        .await;
    let (taken_over, deadline) = (crowd.taken_over(), died + PATIENCE);
    let mut first = None;
    loop {
        let taken = crowd.taken_over() - taken_over;
        if taken > 0 && first.is_none() {
            first = Some((died.elapsed().as_secs_f64(), servers.processor()[0]));
        }
        if taken >= contracts {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "{taken} of {contracts} were taken over"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let last = died.elapsed().as_secs_f64();
    let (first, processor) = first.expect("there were contracts");
    let used = servers.processor()[0] - processor;
    let most = differences(&times, &command_times(redis).await, last);
    crowd.record(false);
    let during = percentiles(crowd);
    calling.stop();
    calling.join().await;
    Storm {
        contracts,
        first,
        last,
        core: used / (last - first) / 1e6,
        before,
        during,
        most: most.into_iter().take(6).collect(),
    }
}

/// p50 and p99 of the calls in some time, in milliseconds.
async fn latencies(crowd: &Crowd, span: Duration) -> [f64; 2] {
    crowd.record(true);
    tokio::time::sleep(span).await;
    crowd.record(false);
    percentiles(crowd)
}

fn percentiles(crowd: &Crowd) -> [f64; 2] {
    let latencies = Latencies::new(crowd.take_latencies());
    [2, 100].map(|rare| latencies.all_but_one_in(rare))
}
