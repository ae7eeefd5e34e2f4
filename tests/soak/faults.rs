//! What may strike. Each fault ends before the next one; whether the farm has recovered from it by
//! then is left to chance.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::dice::Dice;
use crate::fleet::Fleet;
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

/// The longest that a connection is cut or a worker frozen: longer than a lease.
const LONG: Duration = Duration::from_secs(8);

/// The longest that Redis is away.
const SHORT: Duration = Duration::from_secs(3);

pub(crate) async fn strike(fleet: &mut Fleet, fault: Fault, dice: &mut Dice) {
    let worker = dice.below(fleet.workers.len());
    let api = dice.below(fleet.apis.len());
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
            wait::pass(dice.up_to(LONG)).await;
            thaw(fleet.worker(worker));
        }
        Fault::CutWorker => {
            fleet.workers[worker].proxy.set_all(condition(dice));
            wait::pass(dice.up_to(LONG)).await;
            fleet.workers[worker].proxy.heal();
        }
        Fault::KillBrowser | Fault::KillRenderer => kill_below(fleet, worker, fault, dice),
        Fault::KillApi => fleet.replace_api(api, Signal::SIGKILL).await,
        Fault::EndApi => fleet.replace_api(api, Signal::SIGTERM).await,
        Fault::CutApi => {
            fleet.apis[api].proxy.set_all(condition(dice));
            wait::pass(dice.up_to(LONG)).await;
            fleet.apis[api].proxy.heal();
        }
        Fault::KillRedis => {
            fleet.farm.redis.process.kill().await;
            wait::pass(dice.up_to(SHORT)).await;
            fleet.farm.restart_redis_with_data().await;
        }
        Fault::FreezeRedis => {
            freeze(&mut fleet.farm.redis.process);
            wait::pass(dice.up_to(SHORT)).await;
            thaw(&mut fleet.farm.redis.process);
        }
        Fault::KillClients => {
            fleet.farm.script_flush().await;
            fleet.farm.client_kill().await;
        }
        Fault::KillContainer => fleet.containers.kill_one(dice).await,
        Fault::EmptyRedis => {
            // What has no host is nowhere else.
            fleet.wake().await;
            fleet.farm.restart_redis().await;
            fleet.farm.enable_append_only_file().await;
        }
        Fault::FillRedis => {
            let used = fleet.farm.used_memory().await;
            let limit = (used / 2).to_string();
            fleet.farm.config_set("maxmemory", &limit).await;
            wait::pass(dice.up_to(LONG)).await;
            fleet.farm.config_set("maxmemory", "0").await;
        }
    }
}

fn condition(dice: &mut Dice) -> Condition {
    *dice.pick(&[
        Condition::Cut,
        Condition::Silent,
        Condition::Delayed(Duration::from_millis(300)),
    ])
}

fn kill_below(fleet: &Fleet, worker: usize, fault: Fault, dice: &mut Dice) {
    let index = fleet.workers[worker].index;
    let victims = match fault {
        Fault::KillBrowser => fleet.farm.browsers(index),
        _ => fleet.farm.renderers(index),
    };
    // A browser may just be on its way up again.
    if !victims.is_empty() {
        dice.pick(&victims).kill();
    }
}
