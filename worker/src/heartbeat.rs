//! Renews the worker's lease each second; when the lease was lost, finds out what is left.

use std::sync::Arc;

use futures::StreamExt;
use shared::backoff::Backoff;
use shared::id::ContractAddress;
use shared::queue::QueueError;
use shared::queue::contracts::ContractRecord;
use shared::queue::leases::{HEARTBEAT, HEARTBEAT_RETRY};
use shared::reply::FailureCode;
use tokio::time::Instant;

use crate::Worker;
use crate::contracts::Host;

/// Beats until the process stops.
pub(crate) async fn beat(worker: Arc<Worker>, mut farm: String) {
    let mut interval = tokio::time::interval(HEARTBEAT);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = interval.tick() => {}
            () = worker.life.stopping() => return,
        }
        if let Err(error) = beat_once(&worker, &mut farm).await {
            tracing::warn!(%error, "no heartbeat");
            interval.reset_after(HEARTBEAT_RETRY);
        }
    }
}

async fn beat_once(worker: &Arc<Worker>, farm: &mut String) -> Result<(), QueueError> {
    let sent = Instant::now();
    if worker.queue.renew_lease(worker.id).await? {
        worker.fence.renewed(sent);
    } else if !worker.life.is_draining() {
        // On its way out a worker has given its lease back on purpose.
        register_again(worker, farm).await?;
    }
    worker
        .queue
        .report_worker(worker.id, &worker.info())
        .await?;
    let depth = worker.queue.inbox_depth(worker.id).await?;
    worker.metrics.inbox_depth.set(depth);
    Ok(())
}

/// Takes the lease anew, keeps the contracts that nobody took meanwhile, closes the others. The
/// fence stays closed until that is done.
async fn register_again(worker: &Arc<Worker>, farm: &mut String) -> Result<(), QueueError> {
    let sent = Instant::now();
    if !worker.queue.register_worker(worker.id).await? {
        tracing::info!("the lease was lost, and is being cleared up after");
        return Ok(());
    }
    let current = worker.queue.farm().await?;
    let lost_data = current != *farm;
    tracing::warn!(lost_data, "the lease was lost; registered again");
    for (address, host) in worker.contracts.all() {
        if !reclaim(worker, &address, &host, lost_data).await? {
            let worker = worker.clone();
            let tasks = worker.life.clone();
            tasks.spawn(
                "give up",
                async move { give_up(&worker, &address, &host).await },
            );
        }
    }
    *farm = current;
    worker.fence.renewed(sent);
    Ok(())
}

async fn reclaim(
    worker: &Worker,
    address: &ContractAddress,
    host: &Host,
    lost_data: bool,
) -> Result<bool, QueueError> {
    // A contract that is still being loaded has nothing to keep.
    let Some(executable) = host.executable() else {
        return Ok(true);
    };
    let (generation, endpoints, image) = host.status.serves();
    let record = ContractRecord {
        spec: host.spec.clone(),
        generation,
        owner: Some(worker.id),
        endpoints,
        image,
        quarantined_until: 0,
    };
    let queue = &worker.queue;
    if !queue
        .reclaim(address, worker.id, &record, lost_data)
        .await?
    {
        return Ok(false);
    }
    if lost_data {
        queue
            .store_blob(&host.spec.digest, executable.as_bytes(), address)
            .await?;
    }
    Ok(true)
}

/// Closes a contract that is another worker's meanwhile.
async fn give_up(worker: &Worker, address: &ContractAddress, host: &Arc<Host>) {
    tracing::warn!(contract = %address, "another worker has it now");
    let place = worker.contracts.remove_served_by(address, &host.status);
    host.stop(FailureCode::NotHosted).await;
    drop(place);
}

/// Holds the subscription by which others see that this worker is there.
pub(crate) async fn show_presence(worker: Arc<Worker>) {
    let mut backoff = Backoff::redis();
    loop {
        match worker.queue.subscribe_alive(worker.id).await {
            Ok(mut subscription) => {
                backoff.reset();
                let mut messages = subscription.on_message();
                tokio::select! {
                    // Nothing is ever published; the end of the stream is the connection's.
                    () = async { while messages.next().await.is_some() {} } => {}
                    () = worker.life.stopping() => return,
                }
            }
            Err(error) => tracing::debug!(%error, "cannot show presence"),
        }
        tokio::select! {
            () = backoff.wait() => {}
            () = worker.life.stopping() => return,
        }
    }
}
