//! Whether the workers can run what a load asks for. Checked before the executable is stored.

use shared::protocol::job::{Limits, Load};

use super::Dispatcher;
use crate::error::ApiError;

impl Dispatcher {
    /// Refuses limits that no worker allows: otherwise the contract would run with lower ones.
    pub(super) async fn check_limits(&self, load: &Load) -> Result<(), ApiError> {
        let (engine, asked) = (load.spec.engine, &load.spec.limits);
        if *asked == Limits::default() {
            return Ok(());
        }
        let workers = self.queue.workers().await?;
        let able = workers
            .iter()
            .filter(|(_, info)| info.engines.contains(&engine));
        let mut refused = None;
        for (_, info) in able {
            // A worker of an older version does not say.
            let highest = info.highest_limits(engine);
            let exceeded = highest.map_or(Vec::new(), |highest| highest.exceeded_by(asked));
            let Some((name, most)) = exceeded.first() else {
                return Ok(());
            };
            refused = Some(format!(
                "{name} must be at most {most}, the limit of the workers"
            ));
        }
        refused.map_or(Ok(()), |reason| Err(ApiError::field("limits", reason)))
    }

    /// Checks that there are enough workers: none owns two replicas of one contract.
    pub(super) async fn check_room(&self, load: &Load) -> Result<(), ApiError> {
        let (engine, replicas) = (load.spec.engine, load.spec.replicas);
        if replicas == 1 {
            return Ok(());
        }
        let workers = self.queue.workers().await?;
        let able = workers
            .iter()
            .filter(|(_, info)| info.engines.contains(&engine));
        let able = able.count();
        if u32::try_from(able).is_ok_and(|able| able < replicas) {
            return Err(ApiError::NoCapacity(format!(
                "{replicas} replicas need {replicas} workers for {engine} contracts, \
                there are {able}. Lower replicas or add workers"
            )));
        }
        Ok(())
    }
}
