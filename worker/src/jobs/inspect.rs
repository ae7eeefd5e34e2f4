//! Reports the contracts that this worker owns.

use shared::protocol::job::Inspect;
use shared::protocol::reply::{ContractStatus, Output};

use crate::settle::{Delivery, RunInfo};
use crate::worker::Worker;

pub(crate) fn answer(worker: &Worker, inspect: &Inspect, delivery: Delivery) {
    let mut contracts = worker.contracts.all();
    if let Some(address) = &inspect.address {
        contracts.retain(|(owned, _)| owned == address);
    }
    let report = contracts
        .into_iter()
        .map(|(address, contract)| {
            let spec = &contract.spec;
            ContractStatus {
                limits: worker.limits(spec.engine, &spec.limits),
                ..contract.status.report(address, spec, worker.id())
            }
        })
        .collect();
    delivery.settle(Ok(Output::Contracts(report)), RunInfo::default());
}
