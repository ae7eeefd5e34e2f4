//! Tells what this worker hosts.

use shared::protocol::job::Inspect;
use shared::protocol::reply::Output;

use crate::Worker;
use crate::settle::{Delivery, Ran};

pub(crate) fn answer(worker: &Worker, inspect: &Inspect, delivery: Delivery) {
    let mut hosts = worker.contracts.all();
    if let Some(address) = &inspect.address {
        hosts.retain(|(hosted, _)| hosted == address);
    }
    let report = hosts
        .into_iter()
        .map(|(address, host)| host.status.report(address, &host.spec, worker.id))
        .collect();
    delivery.settle(Ok(Output::Contracts(report)), Ran::default());
}
