//! Honest contracts among hostile ones: no honest call may fail, and no honest state may be lost.
//! No faults are injected, so that nothing excuses a failure.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::attackers::Attackers;
use crate::rng::Rng;
use crate::support::call_log::{CONTRACT, CallLog};
use crate::support::farm::Farm;
use crate::support::load::{Load, Pace};
use crate::support::wait;

/// Honest contracts. Together with the hostile ones they share one browser.
const HONEST: usize = 8;

/// 80 calls per second.
const PACE: Pace = Pace {
    callers: 8,
    every: Duration::from_millis(100),
};

/// The promised latency of an honest call. It is reported, not judged: the machine may be busy.
const PROMISED: Duration = Duration::from_millis(250);

/// Runs honest calls among `attackers` hostile contracts, and returns a summary line.
pub(crate) async fn run(time: Duration, seed: u64, attackers: u64) -> String {
    let farm = Farm::builder()
        .env("EXECUTE_TIMEOUT_MS", "1000")
        .env("LOAD_TIMEOUT_MS", "2000")
        .start()
        .await;
    let addresses: Vec<String> = (0..HONEST).map(|number| format!("c{number}")).collect();
    for address in &addresses {
        farm.client().must_load(address, CONTRACT).await;
    }
    let load = Load::start(&farm.clients, &addresses, PACE);
    load.full_pace().await;
    let attackers = Attackers::start(farm.client(), attackers, &mut Rng::new(seed));
    wait::pass(time).await;
    let outcomes = attackers.end().await;
    let log = load.end().await;
    log.check(farm.client(), &["ok"]).await;
    let generations: BTreeSet<_> = log.calls.iter().map(generation).collect();
    assert_eq!(
        generations.len(),
        HONEST,
        "a page was replaced: {generations:?}"
    );
    let summary = format!("{log}, {}; {outcomes}", late(&log));
    for address in &addresses {
        farm.client().unload(address).await.is_no_content();
    }
    // Hostile contracts were quarantined.
    farm.redis_command::<()>(&["DEL", "exec:dead-letters"])
        .await;
    farm.stop().await;
    format!("{summary}; no key, process or page left")
}

/// The page that answered a call: its contract and generation.
fn generation(call: &crate::support::call_log::Call) -> (String, u64) {
    let answer = call.answer.as_ref().expect("every call has succeeded");
    (call.address.clone(), answer.generation())
}

fn late(log: &CallLog) -> String {
    let late = log
        .calls
        .iter()
        .filter(|call| call.took() > PROMISED)
        .count();
    format!("{late} of them longer than {PROMISED:?}")
}
