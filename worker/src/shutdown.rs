//! The first phase of a shutdown: gives the contracts back to the queue and leaves an empty inbox.

use std::time::Duration;

use shared::id::ContractAddress;
use shared::job::{Engine, Load};
use shared::queue::QueueError;
use shared::reply::FailureCode;
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
/// early when the process must stop.
pub(crate) async fn hand_over(worker: &Worker) {
    let work = async {
        worker.announce().await;
        let room = Semaphore::new(UNDER_WAY);
        let hosts = worker.contracts.all();
        let moves = hosts
            .iter()
            .map(|(address, host)| hand_over_one(worker, address, host, &room));
        futures::future::join_all(moves).await;
        close_inbox(worker).await;
    };
    tokio::select! {
        () = work => tracing::info!("handed over"),
        () = worker.life.stopping() => tracing::warn!("stopped before everything was handed over"),
    }
}

async fn hand_over_one(
    worker: &Worker,
    address: &ContractAddress,
    host: &Host,
    under_way: &Semaphore,
) {
    // Closed once it makes no sense to wait.
    let permit = under_way.acquire().await;
    let _turn = worker.contracts.turn(address).await;
    if let Err(error) = release(worker, address, host).await {
        tracing::warn!(contract = %address, %error, "cannot hand a contract over");
    }
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
async fn arrives(worker: &Worker, address: &ContractAddress, engine: Engine) -> bool {
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

async fn has_room_elsewhere(worker: &Worker, engine: Engine) -> bool {
    let workers = worker.queue.workers().await.unwrap_or_default();
    let mut others = workers.iter().filter(|(id, _)| *id != worker.id);
    others.any(|(_, info)| info.free(engine) > 0)
}

/// Makes the contract free, then offers it.
async fn release(
    worker: &Worker,
    address: &ContractAddress,
    host: &Host,
) -> Result<(), QueueError> {
    if !worker.queue.disown(address, worker.id).await? {
        return Ok(());
    }
    let (address, spec) = (address.clone(), host.spec.clone());
    worker.queue.offer(Load { address, spec }).await
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
