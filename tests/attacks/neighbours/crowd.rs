//! P6: every contract has a process of its own, however many there are.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use crate::attack_farm::{AttackFarm, Browser};
use crate::support::wait::{self, DEFAULT_LIMIT};

const FIFTY: &str = "a process for each of fifty";

/// Fifty contracts have fifty processes.
pub(super) async fn fifty(target: &mut AttackFarm) {
    target
        .case("P6", FIFTY, Browser::Stays, async |farm| {
            let client = farm.client();
            let addresses: Vec<_> = (0..50).map(|n| format!("many-{n}")).collect();
            for address in &addresses {
                client.must_load(address, "{ f: () => 1 }").await;
            }
            let contracts = client.contracts().await.len();
            // One more renderer may be kept for the next contract or be starting for it, so for a
            // moment there may be two.
            let settled = wait::until("a renderer for each", DEFAULT_LIMIT, async || {
                let renderers: HashSet<_> = farm.renderers(0).iter().map(|seen| seen.pid).collect();
                let each = (contracts..=contracts + 1).contains(&renderers.len());
                each.then_some(renderers.len())
            });
            let renderers = settled.await;
            let unloads = addresses.iter().map(|address| client.unload(address));
            for answer in futures::future::join_all(unloads).await {
                answer.is_no_content();
            }
            Ok(format!("{contracts} contracts, {renderers} renderers"))
        })
        .await;
}

/// The control of [`fifty`], on a farm whose contracts share contexts.
pub(super) async fn control(target: &mut AttackFarm) {
    let control = some(target, 8).await;
    let control = match control {
        renderers if renderers < 8 => Ok(format!("8 contracts in {renderers} renderers")),
        renderers => Err(format!("8 contracts still had {renderers} renderers")),
    };
    target.note(
        "P6",
        FIFTY,
        Ok(String::new()),
        Some(control),
        Duration::ZERO,
    );
}

/// With Chromium limited to one renderer, the contexts alone keep contracts apart.
pub(crate) async fn crowded(target: &mut AttackFarm) {
    let start = Instant::now();
    let outcome = match some(target, 8).await {
        8 => Ok("8 contracts in 8 renderers at a limit of one".to_owned()),
        renderers => Err(format!("8 contracts in {renderers} renderers")),
    };
    let control = Some(Ok("without contexts they share: the case before".to_owned()));
    target.note(
        "P6",
        "more pages than the renderer limit",
        outcome,
        control,
        start.elapsed(),
    );
}

/// Loads `count` contracts and returns the number of their processes.
async fn some(target: &AttackFarm, count: usize) -> usize {
    let client = target.client();
    let before = target.farm.renderers(0).len();
    let addresses: Vec<_> = (0..count).map(|n| format!("some-{n}")).collect();
    for address in &addresses {
        client.must_load(address, "{ f: () => 1 }").await;
    }
    let renderers = target.farm.renderers(0).len().saturating_sub(before);
    for address in &addresses {
        client.unload(address).await.is_no_content();
    }
    renderers
}
