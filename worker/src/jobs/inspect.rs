//! Reports the contracts that this worker owns.

use shared::protocol::job::Inspect;
use shared::protocol::rank::Top;
use shared::protocol::reply::{ContractStatus, Output};

use crate::settle::{Delivery, RunInfo};
use crate::worker::Worker;

/// For how long a follower may ask for the output of a contract. It asks again.
const LONGEST_FOLLOW_MS: u64 = 60_000;

pub(crate) fn answer(worker: &Worker, inspect: &Inspect, delivery: Delivery) {
    let mut contracts = worker.contracts.all();
    if let Some(address) = &inspect.address {
        contracts.retain(|(owned, _)| owned == address);
    }
    if let Some(follow) = inspect.follow_ms {
        let until = worker.queue.clock().now_ms() + u64::from(follow).min(LONGEST_FOLLOW_MS);
        for (_, contract) in &contracts {
            contract.status.follow_until(until);
        }
    }
    let mut report: Vec<_> = contracts
        .into_iter()
        .map(|(address, contract)| {
            let spec = &contract.spec;
            // Only of one contract: they take more than the rest together.
            let (memory_bytes, last_error) = match &inspect.address {
                Some(_) => contract.status.details(),
                None => (None, None),
            };
            ContractStatus {
                limits: worker.limits(spec.engine, &spec.limits),
                memory_bytes,
                last_error,
                ..contract.status.report(address, spec, worker.id())
            }
        })
        .collect();
    if let Some(Top { by, count }) = inspect.top {
        by.keep_first(&mut report, count);
    }
    delivery.settle(Ok(Output::Contracts(report)), RunInfo::default());
}
