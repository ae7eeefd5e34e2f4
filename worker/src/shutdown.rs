//! The first phase of a shutdown: gives the contracts back to the queue and leaves an empty inbox.

use std::time::Duration;

use shared::id::ContractAddress;
use shared::job::Load;
use shared::queue::QueueError;
use shared::reply::FailureCode;

use crate::Worker;
use crate::contracts::Host;

/// How often it is tried to close an inbox that still has entries.
const CLOSE_EVERY: Duration = Duration::from_millis(20);

/// Hands every contract to whichever worker has room, finishes what runs, closes the inbox. Ends
/// early when the process must stop.
pub(crate) async fn hand_over(worker: &Worker) {
    let work = async {
        worker.announce().await;
        let hosts = worker.contracts.all();
        futures::future::join_all(
            hosts
                .iter()
                .map(|(address, host)| hand_over_one(worker, address, host)),
        )
        .await;
        close_inbox(worker).await;
    };
    tokio::select! {
        () = work => tracing::info!("handed over"),
        () = worker.life.stopping() => tracing::warn!("stopped before everything was handed over"),
    }
}

async fn hand_over_one(worker: &Worker, address: &ContractAddress, host: &Host) {
    let _turn = worker.contracts.turn(address).await;
    if let Err(error) = release(worker, address, host).await {
        tracing::warn!(contract = %address, %error, "cannot hand a contract over");
    }
    let place = worker.contracts.remove(address);
    host.stop(FailureCode::Draining).await;
    drop(place);
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
