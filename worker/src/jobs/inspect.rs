//! Reports the contracts that this worker owns.

use shared::protocol::job::Inspect;
use shared::protocol::rank::Top;
use shared::protocol::reply::{ContractStatus, Output};

use crate::settle::{Delivery, RunInfo};
use crate::worker::Worker;

pub(crate) fn answer(worker: &Worker, inspect: &Inspect, delivery: Delivery) {
    let mut contracts = worker.contracts.all();
    if let Some(address) = &inspect.address {
        contracts.retain(|(owned, _)| owned == address);
    }
    let mut report: Vec<_> = contracts
        .into_iter()
        .map(|(address, contract)| {
            let spec = &contract.spec;
            ContractStatus {
                limits: worker.limits(spec.engine, &spec.limits),
                ..contract.status.report(address, spec, worker.id())
            }
        })
        .collect();
    if let Some(Top { by, count }) = inspect.top {
        by.keep_first(&mut report, count);
    }
    delivery.settle(Ok(Output::Contracts(report)), RunInfo::default());
}
