//! The task that adds up in Redis what callers and contracts have used.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use shared::protocol::id::ContractAddress;
use shared::protocol::tenant::Tenant;
use shared::queue::Queue;
use shared::queue::usage::{Usage, UsedBy};
use shared::service::lifecycle::Lifecycle;

use super::exceeded::Owner;
use super::meter::Meter;
use super::meters::Meters;

/// How often what was used is added up. So much of it is lost if this process is killed.
const EVERY: Duration = Duration::from_secs(5);

/// How many figures are sent at once.
const BATCH: usize = 500;

/// How many characters of a caller's name are stored.
const NAME_LENGTH: usize = 100;

/// What a meter has counted.
struct Counted {
    meter: Arc<Meter>,
    usage: Usage,
}

/// Adds up until the process stops, and then once more.
pub(super) async fn run(queue: Queue, meters: Arc<Meters>, life: Lifecycle) {
    let mut interval = tokio::time::interval(EVERY);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = interval.tick() => {}
            () = life.stopping() => break,
        }
        add_up(&queue, &meters).await;
    }
    add_up(&queue, &meters).await;
}

async fn add_up(queue: &Queue, meters: &Meters) {
    let mut by_tenant = HashMap::<Tenant, Vec<Counted>>::new();
    for meter in meters.take_callers_and_contracts() {
        let usage = meter.take_used();
        if usage != Usage::default() {
            let counted = by_tenant.entry(meter.tenant.clone()).or_default();
            counted.push(Counted { meter, usage });
        }
    }
    for (tenant, counted) in by_tenant {
        for batch in counted.chunks(BATCH) {
            add(queue, &tenant, batch).await;
        }
    }
}

async fn add(queue: &Queue, tenant: &Tenant, batch: &[Counted]) {
    let names: Vec<_> = batch.iter().map(|counted| name(&counted.meter)).collect();
    let used = batch.iter().zip(&names).map(|(counted, name)| {
        let by = match counted.meter.owner {
            Owner::Contract => UsedBy::Contract,
            Owner::Key | Owner::Tenant => UsedBy::Caller,
        };
        (by, name.as_str(), counted.usage)
    });
    let used: Vec<_> = used.collect();
    let Err(error) = queue.add_usage(tenant, &used).await else {
        return;
    };
    if error.is_ambiguous() {
        // It may be there. Counting it twice would be worse.
        tracing::warn!(%error, "usage of some seconds may be lost");
        return;
    }
    tracing::debug!(%error, "usage not added up yet");
    for counted in batch {
        counted.meter.add_used(counted.usage);
    }
}

/// The name under which it is stored: that of a contract as its tenant knows it.
fn name(meter: &Meter) -> String {
    if meter.owner == Owner::Contract {
        let address = ContractAddress::try_from(meter.name.clone());
        return address.map_or_else(|_| String::new(), |address| address.local().to_owned());
    }
    meter.name.chars().take(NAME_LENGTH).collect()
}
