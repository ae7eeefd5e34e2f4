//! The task that leases further slices of quotas from Redis. What is asked for at the same time
//! goes in one pipeline.

use std::time::Duration;

use shared::queue::Queue;
use shared::queue::allowances::{Granted, Wanted};
use shared::service::lifecycle::Lifecycle;
use tokio::sync::mpsc::UnboundedReceiver;

use super::allowance::Allowance;
use super::exceeded::{Owner, Resource};
use super::meter::Refill;

/// How many slices are leased at once.
const BATCH: usize = 256;

/// The window of a rate of calls.
const SECOND: Duration = Duration::from_secs(1);

/// The window of a quota of processor time.
const MINUTE: Duration = Duration::from_mins(1);

/// The pause after Redis has not answered: in it this process grants itself one slice, which is as
/// much as a second's tenth of the quota.
const PAUSE: Duration = Duration::from_millis(100);

/// Leases what is asked for until the process stops.
pub(super) async fn run(queue: Queue, mut asked: UnboundedReceiver<Refill>, life: Lifecycle) {
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        tokio::select! {
            received = asked.recv_many(&mut batch, BATCH) => if received == 0 { return },
            () = life.stopping() => return,
        }
        let wanted: Vec<_> = batch.iter().map(|refill| refill.wanted(&queue)).collect();
        let mut has_failed = false;
        let granted = queue.lease_allowances(&wanted).await;
        for (refill, granted) in batch.drain(..).zip(granted) {
            let allowance = refill.allowance();
            match granted {
                Ok(Granted::Units(units)) => allowance.granted(units),
                Ok(Granted::NotBefore(time)) => allowance.refused(time),
                Err(error) => {
                    tracing::debug!(%error, "quota not leased");
                    has_failed = true;
                    allowance.granted(allowance.slice());
                }
            }
        }
        if has_failed {
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = life.stopping() => return,
            }
        }
    }
}

impl Refill {
    fn allowance(&self) -> &Allowance {
        match self.resource {
            Resource::Cpu => &self.meter.cpu,
            _ => &self.meter.calls,
        }
    }

    fn wanted(&self, queue: &Queue) -> Wanted {
        let kind = match self.meter.owner {
            Owner::Key => "k",
            Owner::Tenant => "t",
            Owner::Contract => "c",
        };
        let subject = format!("{kind}:{}", self.meter.name);
        let (window, unit_of_call) = match self.resource {
            Resource::Cpu => (MINUTE, 0),
            _ => (SECOND, 1),
        };
        let allowance = self.allowance();
        Wanted {
            key: queue.keys().allowance(&subject, self.resource.name()),
            quota: allowance.quota().max(1),
            window,
            units: allowance.wanted(unit_of_call).max(1),
            slice: allowance.slice(),
        }
    }
}
