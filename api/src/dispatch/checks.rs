//! Checks a call's argument and result by the schemas of its contract.
//!
//! The schemas are those of the contract's record when the call was routed, which may have been long
//! ago. The worker refuses a call that was checked by others, and the call is routed again. So it is
//! before a call is rejected by schemas that the contract does not have any more.

use std::sync::Arc;

use futures::FutureExt;
use serde_json::value::RawValue;
use shared::protocol::frame::Reply;
use shared::protocol::id::ContractAddress;
use shared::protocol::job::{Argument, Execute, Job};
use shared::protocol::reply::Output;

use super::route_cache::Assignment;
use super::{Dispatcher, Progress};
use crate::error::ApiError;
use crate::schemas::{ContractSchemas, Part};

/// What is known about the checks of one call.
#[derive(Default)]
pub(super) struct CallChecks {
    /// The argument, if it was moved into Redis and the first attempt has not begun.
    moved: Option<Box<RawValue>>,
    /// The schemas that the argument was checked by.
    schemas: Option<Arc<ContractSchemas>>,
}

impl CallChecks {
    /// The argument was moved into Redis.
    pub(super) fn moved(&mut self, argument: Box<RawValue>) {
        self.moved = Some(argument);
    }
}

impl Dispatcher {
    /// Checks the argument of a call before it is sent to this owner. False if another attempt must
    /// be made: the contract has changed since it was routed, or Redis does not answer.
    pub(super) async fn check_argument(
        &self,
        address: &ContractAddress,
        owner: &Assignment,
        job: &mut Job,
        progress: &mut Progress,
    ) -> Result<bool, ApiError> {
        let Job::Execute(execute) = job else {
            return Ok(true);
        };
        // Contracts without schemas need it no longer than this.
        let moved = progress.checks.moved.take();
        let checked = progress.checks.schemas.as_ref();
        let checked = checked.map(|schemas| schemas.digest.as_str());
        let digest = owner.schemas.as_deref();
        execute.schemas = Some(digest.unwrap_or_default().to_owned());
        if checked == digest {
            return Ok(true);
        }
        progress.checks.schemas = None;
        let Some(digest) = digest else {
            return Ok(true);
        };
        // Nearly every call ends here, without the futures of what follows.
        if let Argument::Json(json) = &execute.argument
            && let Some(schemas) = self.schemas.known(digest)
            && schemas.is_soon_valid(&execute.method, Part::Argument, json)
        {
            progress.checks.schemas = Some(schemas);
            return Ok(true);
        }
        let checking = self.check_by(address, digest, execute, moved).boxed();
        let checked = match checking.await {
            Err(rejection @ ApiError::ArgumentInvalid(_)) => {
                let confirming = self.confirm(address, digest, rejection);
                confirming.boxed().await
            }
            checked => checked,
        };
        match checked {
            Ok(schemas) => {
                let is_checked = schemas.is_some();
                progress.checks.schemas = schemas;
                Ok(is_checked)
            }
            Err(error @ ApiError::QueueUnavailable(_)) => {
                progress.last_error = Some(error);
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Rejects a call, unless the contract has other schemas by now.
    async fn confirm(
        &self,
        address: &ContractAddress,
        digest: &str,
        rejection: ApiError,
    ) -> Result<Option<Arc<ContractSchemas>>, ApiError> {
        let record = self.queue.contract(address).await?;
        let current = record.and_then(|record| record.schemas);
        if current.as_deref() == Some(digest) {
            return Err(rejection);
        }
        Ok(None)
    }

    /// Checks an argument by the schemas with this digest, and returns them. None if the contract
    /// has others by now.
    async fn check_by(
        &self,
        address: &ContractAddress,
        digest: &str,
        execute: &Execute,
        moved: Option<Box<RawValue>>,
    ) -> Result<Option<Arc<ContractSchemas>>, ApiError> {
        let Some(schemas) = self.schemas.get(address, digest).await? else {
            return Ok(None);
        };
        let (method, part) = (&execute.method, Part::Argument);
        match (&execute.argument, moved) {
            (Argument::Json(json), _) => {
                self.schemas.check(&schemas, method, part, json).await?;
            }
            (Argument::Stored(_), Some(json)) => {
                self.schemas.check(&schemas, method, part, &json).await?;
            }
            (Argument::Stored(name), None) => {
                // It was checked by other schemas in an earlier attempt. If it has expired, the
                // worker says so.
                if let Some(text) = self.queue.fetch_body(name).await?
                    && let Ok(json) = RawValue::from_string(text)
                {
                    self.schemas.check(&schemas, method, part, &json).await?;
                }
            }
            (Argument::None, _) => {}
        }
        Ok(Some(schemas))
    }

    /// Checks the result of a call.
    pub(super) async fn check_result(
        &self,
        job: &Job,
        reply: &Reply,
        checks: &CallChecks,
    ) -> Result<(), ApiError> {
        match (job, &reply.outcome, &checks.schemas) {
            (Job::Execute(execute), Ok(Output::Result(json)), Some(schemas)) => {
                let (method, part) = (&execute.method, Part::Result);
                if schemas.is_soon_valid(method, part, json) {
                    return Ok(());
                }
                let checking = self.schemas.check(schemas, method, part, json);
                checking.boxed().await
            }
            _ => Ok(()),
        }
    }
}
