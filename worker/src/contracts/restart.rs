//! After a loss: a fresh sandbox in a new generation, sooner or later, or quarantine.
//!
//! The first loss is made good at once. The more there are within a short time, the longer is the
//! wait before the next try; at the engine's [limit](crate::sandbox::RestartLimit) the contract is
//! hosted by nobody for a while, or until somebody loads it again.

use std::collections::VecDeque;
use std::time::Duration;

use shared::protocol::reply::FailureCode;
use shared::queue::QueueError;
use shared::service::backoff::Backoff;
use tokio::time::Instant;

use super::Stop;
use super::host::{Calls, HostTask};
use crate::sandbox::{Blueprint, Engine, Instance, RestartLimit, StartError};

/// What is said to calls that find no sandbox.
const NO_SANDBOX: &str = "The contract's sandbox cannot be made at the moment";

/// The wait after the second loss in a row; it doubles with each of the next ones.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest wait.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Why a contract is hosted here no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GiveUp {
    /// It is to stop; calls are refused with this code.
    Stop(FailureCode),
    /// It lost too many sandboxes.
    Quarantine,
}

/// The losses of one contract that still count.
#[derive(Debug)]
pub(crate) struct Losses {
    limit: RestartLimit,
    recent: VecDeque<Instant>,
}

impl Losses {
    pub(super) fn new(limit: RestartLimit) -> Self {
        Self {
            limit,
            recent: VecDeque::new(),
        }
    }

    /// A sandbox was lost, or did not even begin to live.
    pub(super) fn note(&mut self) {
        self.note_at(Instant::now());
    }

    fn note_at(&mut self, now: Instant) {
        self.recent.retain(|loss| now - *loss < self.limit.within);
        self.recent.push_back(now);
    }

    fn are_too_many(&self) -> bool {
        self.recent.len() >= self.limit.losses
    }

    /// How long to wait before the next try.
    fn pause(&self) -> Duration {
        match u32::try_from(self.recent.len()) {
            Ok(0 | 1) => Duration::ZERO,
            Ok(losses) => (FIRST_PAUSE * 2_u32.saturating_pow(losses - 2)).min(LONGEST_PAUSE),
            Err(_) => LONGEST_PAUSE,
        }
    }
}

impl<E: Engine> HostTask<E> {
    /// Makes a fresh sandbox in a new generation; gives up only when the contract is not to be
    /// hosted here any more, or is to be quarantined.
    pub(super) async fn restart(&mut self, calls: &mut Calls) -> Result<E::Instance, GiveUp> {
        let mut backoff = Backoff::new(Duration::from_millis(50), LONGEST_PAUSE);
        let mut pause = self.losses.pause();
        let mut refusing = false;
        loop {
            if self.losses.are_too_many() {
                return Err(GiveUp::Quarantine);
            }
            self.wait(pause, refusing).await?;
            match self.start_next().await {
                Ok(instance) => match self.next_generation().await {
                    Ok(()) => {
                        self.metrics().restarts.increment(1);
                        return Ok(instance);
                    }
                    Err(code) => {
                        instance.close().await;
                        return Err(code);
                    }
                },
                Err(StartError::Invalid(error)) => {
                    tracing::warn!(contract = %self.address, error, "a new sandbox does not live");
                    self.losses.note();
                    pause = self.losses.pause().max(backoff.delay());
                }
                Err(StartError::Unavailable(error)) => {
                    tracing::warn!(contract = %self.address, error, "cannot make a sandbox anew");
                    // Nobody knows how long that lasts: better say so than let the calls wait.
                    self.turn_away(calls, FailureCode::SandboxUnavailable, NO_SANDBOX);
                    refusing = true;
                    pause = backoff.delay();
                }
            }
        }
    }

    /// Waits, unless the host is to stop; refuses calls meanwhile, if asked to.
    async fn wait(&mut self, pause: Duration, refusing: bool) -> Result<(), GiveUp> {
        let end = Instant::now() + pause;
        loop {
            if let Stop::Refusing(code) = *self.ends.stop.borrow() {
                return Err(GiveUp::Stop(code));
            }
            tokio::select! {
                () = tokio::time::sleep_until(end) => return Ok(()),
                Ok(()) = self.ends.stop.changed() => {}
                () = self.worker.life.stopping() => return Err(GiveUp::Stop(FailureCode::Draining)),
                Some(call) = self.ends.calls.recv(), if refusing => {
                    self.turn_one_away(call, FailureCode::SandboxUnavailable, NO_SANDBOX);
                }
            }
        }
    }

    async fn start_next(&self) -> Result<E::Instance, StartError> {
        let plan = Blueprint {
            address: &self.address,
            // Only this host can raise it.
            generation: self.generation + 1,
            spec: &self.spec,
            executable: &self.executable,
            image: self.image.as_deref(),
        };
        self.engine.start(plan).await
    }

    async fn next_generation(&mut self) -> Result<(), GiveUp> {
        let mut backoff = Backoff::redis();
        loop {
            match self
                .worker
                .queue
                .raise_generation(&self.address, self.worker.id)
                .await
            {
                Ok(Some(generation)) => {
                    self.generation = generation;
                    return Ok(());
                }
                Ok(None) => return Err(GiveUp::Stop(FailureCode::NotHosted)),
                Err(error) => tracing::warn!(%error, "cannot raise a generation"),
            }
            tokio::select! {
                () = backoff.wait() => {}
                () = self.worker.life.stopping() => return Err(GiveUp::Stop(FailureCode::Draining)),
            }
        }
    }

    /// Has the contract hosted by nobody for a while.
    pub(super) async fn quarantine(&self) {
        let Self {
            worker, address, ..
        } = self;
        tracing::error!(contract = %address, "quarantined: its sandbox is lost again and again");
        let recorded = async {
            let span = worker.quarantine_ms;
            if worker.queue.quarantine(address, worker.id, span).await? {
                let reason = "its sandbox was lost again and again";
                let contract = address.as_str();
                let fields = [
                    ("kind", "quarantine"),
                    ("contract", contract),
                    ("reason", reason),
                ];
                worker.queue.record_dead_letter(&fields).await?;
            }
            Ok::<(), QueueError>(())
        };
        if let Err(error) = recorded.await {
            tracing::warn!(%error, "cannot record a quarantine");
        }
        drop(
            worker
                .contracts
                .remove_served_by(address, &self.ends.status),
        );
        worker.announce().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn losses() -> Losses {
        Losses::new(RestartLimit {
            losses: 3,
            within: Duration::from_mins(1),
        })
    }

    #[test]
    fn the_first_loss_is_made_good_at_once_and_the_next_ones_later() {
        let mut losses = losses();
        losses.note();
        assert_eq!(losses.pause(), Duration::ZERO);
        losses.note();
        assert_eq!(losses.pause(), FIRST_PAUSE);
        losses.note();
        assert_eq!(losses.pause(), FIRST_PAUSE * 2);
        assert!(losses.are_too_many());
    }

    #[test]
    fn old_losses_do_not_count() {
        let mut losses = losses();
        let mut now = Instant::now();
        for _ in 0..5 {
            losses.note_at(now);
            assert!(!losses.are_too_many());
            now += Duration::from_secs(31);
        }
    }
}
