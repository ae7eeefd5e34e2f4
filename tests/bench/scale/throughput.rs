//! Calls on one server and on clusters of one to three primaries.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use redis_servers::Redis;

use super::Extent;
use super::api::CALLERS;
use super::crowd::{Calling, Crowd};
use super::servers::{Servers, own_processor};
use crate::figures::Spread;
use crate::latencies::Latencies;

/// How many calls a caller makes at once, and so how many go in one frame.
pub(super) const FRAMES: [usize; 3] = [1, 4, 32];

/// How long a load lasts before it is measured.
const WARM_UP: Duration = Duration::from_secs(1);

/// How Redis is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Deployment {
    /// One server that is no cluster.
    One,
    /// The same, with an append-only file that is written to disk each second.
    AppendOnly,
    /// A cluster of so many primaries.
    Cluster(usize),
}

pub(super) const DEPLOYMENTS: [Deployment; 5] = [
    Deployment::One,
    Deployment::AppendOnly,
    Deployment::Cluster(1),
    Deployment::Cluster(2),
    Deployment::Cluster(3),
];

impl Deployment {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::One => "one server",
            Self::AppendOnly => "one server, append-only file",
            Self::Cluster(1) => "cluster, 1 primary",
            Self::Cluster(2) => "cluster, 2 primaries",
            Self::Cluster(_) => "cluster, 3 primaries",
        }
    }

    async fn start(self) -> Redis {
        match self {
            Self::One => Redis::on_port(),
            Self::AppendOnly => {
                let redis = Redis::on_port();
                let on = [
                    "CONFIG",
                    "SET",
                    "appendonly",
                    "yes",
                    "appendfsync",
                    "everysec",
                ];
                redis.command::<()>(&on).await;
                redis
            }
            Self::Cluster(primaries) => Redis::primaries_only(primaries),
        }
    }
}

/// What one load of calls took.
#[derive(Debug, Clone)]
struct Load {
    calls: f64,
    seconds: f64,
    /// Microseconds of processor time of each server.
    redis: Vec<f64>,
    /// How much of it the servers need without calls, for what the processes ask all the time.
    idle: Vec<f64>,
    /// The same of this process.
    own: f64,
    /// Frames of jobs and of replies.
    frames: f64,
    commands: f64,
    p50: f64,
    p99: f64,
}

impl Load {
    /// What each server used for calls.
    fn for_calls(&self) -> impl Iterator<Item = f64> {
        let both = self.redis.iter().zip(&self.idle);
        both.map(|(used, idle)| used - idle)
    }
}

/// The loads of one deployment with so many calls in a frame, one for each round.
#[derive(Debug)]
pub(super) struct Calls {
    pub(super) deployment: Deployment,
    pub(super) in_a_frame: usize,
    /// Whether only a third of the calls was made that could have been. One primary then has as much
    /// to do as each of three.
    pub(super) is_third: bool,
    loads: Vec<Load>,
}

impl Calls {
    pub(super) fn name(&self) -> String {
        let part = if self.is_third {
            ", a third of the calls"
        } else {
            ""
        };
        format!("{}{part}", self.deployment.name())
    }

    fn spread(&self, value: impl Fn(&Load) -> f64) -> Spread {
        let values: Vec<_> = self.loads.iter().map(value).collect();
        Spread::of(&values).expect("there was a round")
    }

    fn median(&self, value: impl Fn(&Load) -> f64) -> f64 {
        self.spread(value).median
    }

    pub(super) fn rate(&self) -> f64 {
        self.median(|load| load.calls / load.seconds)
    }

    /// Microseconds of processor time of Redis for each call, without what it uses anyway.
    pub(super) fn redis(&self) -> Spread {
        self.spread(|load| load.for_calls().sum::<f64>() / load.calls)
    }

    /// The same of the busiest server.
    pub(super) fn busiest(&self) -> f64 {
        self.median(|load| load.for_calls().fold(0.0, f64::max) / load.calls)
    }

    /// The same of the simulated processes.
    pub(super) fn own(&self) -> f64 {
        self.median(|load| load.own / load.calls)
    }

    /// How much of a core all servers used.
    pub(super) fn cores(&self) -> f64 {
        self.median(|load| load.redis.iter().sum::<f64>() / load.seconds / 1e6)
    }

    /// How much of it they use without calls.
    pub(super) fn idle_cores(&self) -> f64 {
        self.median(|load| load.idle.iter().sum::<f64>() / load.seconds / 1e6)
    }

    /// The calls that a frame really held.
    pub(super) fn measured_in_a_frame(&self) -> f64 {
        // Each call is in a frame of jobs and in a frame of replies.
        self.median(|load| 2.0 * load.calls / load.frames)
    }

    pub(super) fn commands(&self) -> f64 {
        self.median(|load| load.commands / load.calls)
    }

    /// Milliseconds.
    pub(super) fn p50(&self) -> f64 {
        self.median(|load| load.p50)
    }

    /// Milliseconds.
    pub(super) fn p99(&self) -> f64 {
        self.median(|load| load.p99)
    }
}

/// Measures all deployments.
pub(super) async fn run(extent: &Extent) -> Vec<Calls> {
    let mut all = Vec::new();
    for deployment in DEPLOYMENTS {
        let redis = deployment.start().await;
        let servers = Servers::find();
        let crowd = Crowd::start(&redis.config(), extent.apis, extent.called, 0).await;
        let parts: &[bool] = if deployment == Deployment::Cluster(1) {
            &[false, true]
        } else {
            &[false]
        };
        let rows = parts.iter().flat_map(|is_third| {
            FRAMES.map(|in_a_frame| Calls {
                deployment,
                in_a_frame,
                is_third: *is_third,
                loads: Vec::new(),
            })
        });
        let mut measured: Vec<_> = rows.collect();
        let farm = Measured {
            extent,
            redis,
            servers,
            crowd,
        };
        for _ in 0..extent.rounds {
            farm.round(&mut measured).await;
        }
        farm.crowd.end().await;
        all.extend(measured);
    }
    all
}

/// What is measured.
struct Measured<'a> {
    extent: &'a Extent,
    redis: Redis,
    servers: Servers,
    crowd: Crowd,
}

impl Measured<'_> {
    /// Adds a load to each row. Those with a third of the calls come after the others.
    async fn round(&self, rows: &mut [Calls]) {
        let idle = self.idle().await;
        let mut rates = HashMap::new();
        for row in rows {
            let third = rates.get(&row.in_a_frame).map(|rate| rate / 3.0);
            let load = self.load(row.in_a_frame, &idle, third).await;
            let rate = load.calls / load.seconds;
            rates.insert(row.in_a_frame, rate);
            eprintln!(
                "scale: {}, {} calls a frame: {rate:.0} calls/s, {:.2} µs of Redis a call",
                row.name(),
                row.in_a_frame,
                load.for_calls().sum::<f64>() / load.calls,
            );
            row.loads.push(load);
        }
    }

    /// What each server uses while nothing is called, in microseconds a second.
    async fn idle(&self) -> Vec<f64> {
        tokio::time::sleep(WARM_UP).await;
        let (start, before) = (Instant::now(), self.servers.processor());
        tokio::time::sleep(self.extent.span).await;
        let after = self.servers.processor();
        let seconds = start.elapsed().as_secs_f64();
        let both = before.iter().zip(after);
        both.map(|(from, to)| (to - from) / seconds).collect()
    }

    /// A load of as many calls as can be made, or of so many a second.
    async fn load(&self, in_a_frame: usize, idle: &[f64], rate: Option<f64>) -> Load {
        let at_once = count((self.crowd.apis.len() * CALLERS * in_a_frame) as u64);
        let calling = Calling {
            callers: CALLERS,
            in_a_frame,
            interval: rate.map_or(Duration::ZERO, |rate| {
                Duration::from_secs_f64(at_once / rate)
            }),
        };
        let calling = self.crowd.call(&self.crowd.workers, calling);
        tokio::time::sleep(WARM_UP).await;
        let (commands, counted) = (self.redis.command_counts().await, Instant::now());
        let (start, answered) = (Instant::now(), self.crowd.answered());
        let (before, own) = (self.servers.processor(), own_processor());
        self.crowd.record(true);
        tokio::time::sleep(self.extent.span).await;
        self.crowd.record(false);
        let (after, own) = (self.servers.processor(), own_processor() - own);
        let calls = count(self.crowd.answered() - answered);
        let seconds = start.elapsed().as_secs_f64();
        let later = self.redis.command_counts().await;
        // Busy servers need some time to answer, in which they go on.
        let share = seconds / counted.elapsed().as_secs_f64();
        calling.stop();
        calling.join().await;
        let latencies = Latencies::new(self.crowd.take_latencies());
        let used = before.iter().zip(&after).map(|(from, to)| to - from);
        let of = |name: &str| {
            later.get(name).copied().unwrap_or(0) - commands.get(name).copied().unwrap_or(0)
        };
        Load {
            calls,
            seconds,
            redis: used.collect(),
            idle: idle.iter().map(|rate| rate * seconds).collect(),
            own,
            frames: count(of("xadd")) * share,
            commands: count(later.keys().map(|name| of(name)).sum()) * share,
            p50: latencies.all_but_one_in(2),
            p99: latencies.all_but_one_in(100),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "there are never 2^52 of them")]
pub(super) fn count(number: u64) -> f64 {
    number as f64
}
