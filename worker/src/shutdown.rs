//! The first phase of a shutdown: gives the contracts back to the queue and leaves an empty inbox.

use std::time::Duration;

use shared::protocol::id::ContractAddress;
use shared::protocol::job::{EngineKind, Load};
use shared::protocol::reply::FailureCode;
use shared::queue::QueueError;
use shared::service::backoff::Backoff;
use tokio::sync::Semaphore;

use crate::Worker;
use crate::contracts::Host;

/// Contracts that are on their way to another worker at once: those wait for their turn with their
/// calls, while the others are still served here.
const UNDER_WAY: usize = 4;

/// How long a contract may be on its way before the next ones are no longer held back.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often it is looked whether a contract has arrived.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How often it is tried to close an inbox that still has entries.
const CLOSE_EVERY: Duration = Duration::from_millis(20);

/// Hands every contract to whichever worker has room, finishes what runs, closes the inbox. Ends
/// early when the process must stop: tells whether nothing was left.
pub(crate) async fn hand_over(worker: &Worker) -> bool {
    let work = async {
        worker.announce().await;
        hand_over_all(worker).await;
        close_inbox(worker).await;
    };
    tokio::select! {
        () = work => {
            tracing::info!("handed over");
            true
        }
        () = worker.life.stopping() => {
            tracing::warn!("stopped before everything was handed over");
            false
        }
    }
}

/// Until nothing is hosted here and no load is under way that may change that.
async fn hand_over_all(worker: &Worker) {
    let room = Semaphore::new(UNDER_WAY);
    loop {
        // Looked at first: a load that has ended by now has left its contract in the table.
        let may_grow = !worker.placements.is_empty();
        let hosted = worker.contracts.all();
        if !hosted.is_empty() {
            let moves = hosted
                .iter()
                .map(|(address, _)| hand_over_one(worker, address, &room));
            futures::future::join_all(moves).await;
        } else if may_grow {
            worker.placements.wait().await;
        } else {
            return;
        }
    }
}

async fn hand_over_one(worker: &Worker, address: &ContractAddress, under_way: &Semaphore) {
    // Closed once it makes no sense to wait.
    let permit = under_way.acquire().await;
    let _turn = worker.contracts.turn(address).await;
    // What stood here before its turn may have been unloaded, or replaced.
    let Some(host) = worker.contracts.get(address) else {
        return;
    };
    release(worker, address, &host).await;
    let place = worker.contracts.remove(address);
    let arrival = async {
        // The other replicas of a contract serve, and keep their workers from taking this one.
        let is_only = host.spec.replicas == 1;
        if is_only && permit.is_ok() && !arrives(worker, address, host.spec.engine).await {
            under_way.close();
        }
    };
    tokio::join!(host.stop(FailureCode::Draining), arrival);
    drop(place);
}

/// Whether another worker takes the contract soon; not awaited where none has room.
async fn arrives(worker: &Worker, address: &ContractAddress, engine: EngineKind) -> bool {
    let looking = async {
        loop {
            match worker.queue.contract(address).await {
                Ok(Some(record)) if record.owner.is_none() => {}
                // Unloaded meanwhile, or taken; without Redis nothing arrives anywhere.
                _ => return true,
            }
            if !has_room_elsewhere(worker, engine).await {
                return false;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    tokio::time::timeout(PATIENCE, looking)
        .await
        .unwrap_or(false)
}

async fn has_room_elsewhere(worker: &Worker, engine: EngineKind) -> bool {
    let workers = worker.queue.workers().await.unwrap_or_default();
    let mut others = workers.iter().filter(|(id, _)| *id != worker.id);
    others.any(|(_, info)| info.free(engine) > 0)
}

/// Makes the contract free, then offers it; tries until that is done, since nobody clears up after a
/// worker that has handed over.
async fn release(worker: &Worker, address: &ContractAddress, host: &Host) {
    let mut backoff = Backoff::redis();
    while let Err(error) = try_to_release(worker, address, host).await {
        tracing::warn!(contract = %address, %error, "cannot hand a contract over yet");
        backoff.wait().await;
    }
}

async fn try_to_release(
    worker: &Worker,
    address: &ContractAddress,
    host: &Host,
) -> Result<(), QueueError> {
    let queue = &worker.queue;
    // The second time it may be free already.
    if queue.release(address, worker.id).await? || queue.is_offer_due(address).await? {
        let (address, spec) = (address.clone(), host.spec.clone());
        queue.offer(Load { address, spec }).await?;
    }
    Ok(())
}

/// Waits until the inbox is empty and settled, and closes it in that moment: whoever writes to it
/// afterwards learns that it is gone.
async fn close_inbox(worker: &Worker) {
    loop {
        match worker.queue.close_inbox(worker.id).await {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "cannot close the inbox"),
        }
        tokio::time::sleep(CLOSE_EVERY).await;
    }
}
