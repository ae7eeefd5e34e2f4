//! The faults of the soak. Each fault ends before the next one starts. Whether the farm has
//! recovered by then is left to chance.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::fleet::Fleet;
use crate::rng::Rng;
use crate::support::chaos::{freeze, thaw};
use crate::support::proxy::Condition;
use crate::support::wait;

#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    KillWorker,
    DrainWorker,
    FreezeWorker,
    CutWorker,
    KillBrowser,
    KillRenderer,
    KillApi,
    EndApi,
    CutApi,
    KillRedis,
    FreezeRedis,
    KillClients,
    KillContainer,
    EmptyRedis,
    FillRedis,
}

pub(crate) const ALL: [Fault; 15] = [
    Fault::KillWorker,
    Fault::DrainWorker,
    Fault::FreezeWorker,
    Fault::CutWorker,
    Fault::KillBrowser,
    Fault::KillRenderer,
    Fault::KillApi,
    Fault::EndApi,
    Fault::CutApi,
    Fault::KillRedis,
    Fault::FreezeRedis,
    Fault::KillClients,
    Fault::KillContainer,
    Fault::EmptyRedis,
    Fault::FillRedis,
];

/// The longest time that a connection is cut or a worker frozen: longer than a lease.
const LONG: Duration = Duration::from_secs(8);

/// The longest time that Redis is down.
const SHORT: Duration = Duration::from_secs(3);

pub(crate) async fn inject(fleet: &mut Fleet, fault: Fault, rng: &mut Rng) {
    let worker = rng.below(fleet.workers.len());
    let api = rng.below(fleet.apis.len());
    match fault {
        Fault::KillWorker => {
            fleet.end_worker(worker, Signal::SIGKILL).await;
            fleet.add_worker().await;
        }
        Fault::DrainWorker => {
            fleet.add_worker().await;
            fleet.end_worker(worker, Signal::SIGTERM).await;
        }
        Fault::FreezeWorker => {
            freeze(fleet.worker(worker));
            wait::pass(rng.up_to(LONG)).await;
            thaw(fleet.worker(worker));
        }
        Fault::CutWorker => {
            fleet.workers[worker].proxy.set_all(condition(rng));
            wait::pass(rng.up_to(LONG)).await;
            fleet.workers[worker].proxy.heal();
        }
        Fault::KillBrowser | Fault::KillRenderer => kill_below(fleet, worker, fault, rng),
        Fault::KillApi => fleet.replace_api(api, Signal::SIGKILL).await,
        Fault::EndApi => fleet.replace_api(api, Signal::SIGTERM).await,
        Fault::CutApi => {
            fleet.apis[api].proxy.set_all(condition(rng));
            wait::pass(rng.up_to(LONG)).await;
            fleet.apis[api].proxy.heal();
        }
        Fault::KillRedis => {
            fleet.farm.redis.process().kill().await;
            wait::pass(rng.up_to(SHORT)).await;
            fleet.farm.restart_redis_with_data().await;
        }
        Fault::FreezeRedis => {
            freeze(fleet.farm.redis.process());
            wait::pass(rng.up_to(SHORT)).await;
            thaw(fleet.farm.redis.process());
        }
        Fault::KillClients => {
            fleet.farm.script_flush().await;
            fleet.farm.client_kill().await;
        }
        Fault::KillContainer => fleet.containers.kill_one(rng).await,
        Fault::EmptyRedis => {
            // An unassigned contract exists only in Redis, and so does one whose owner was killed.
            // So every contract needs an owner that lives.
            fleet.wait_until_deaths_are_known().await;
            fleet.call_unassigned_contracts().await;
            fleet.farm.restart_redis().await;
            fleet.farm.enable_append_only_file().await;
        }
        Fault::FillRedis => {
            let used = fleet.farm.used_memory().await;
            let limit = (used / 2).to_string();
            fleet.farm.config_set("maxmemory", &limit).await;
            wait::pass(rng.up_to(LONG)).await;
            fleet.farm.config_set("maxmemory", "0").await;
        }
    }
}

fn condition(rng: &mut Rng) -> Condition {
    *rng.pick(&[
        Condition::Cut,
        Condition::Silent,
        Condition::Delayed(Duration::from_millis(300)),
    ])
}

fn kill_below(fleet: &Fleet, worker: usize, fault: Fault, rng: &mut Rng) {
    let index = fleet.workers[worker].index;
    let victims = match fault {
        Fault::KillBrowser => fleet.farm.browsers(index),
        _ => fleet.farm.renderers(index),
    };
    // The browser may be restarting, so there may be none.
    if !victims.is_empty() {
        rng.pick(&victims).kill();
    }
}
