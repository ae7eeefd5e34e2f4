//! Checks a call's argument and result by the schemas of its contract.
//!
//! The schemas are those of the contract's record when the call was routed. The worker refuses a
//! call that was checked by others, and the call is routed again.

use std::sync::Arc;

use serde_json::value::RawValue;
use shared::protocol::frame::Reply;
use shared::protocol::id::ContractAddress;
use shared::protocol::job::{Argument, Job};
use shared::protocol::reply::Output;

use super::Dispatcher;
use super::route_cache::Assignment;
use crate::error::ApiError;
use crate::schemas::{ContractSchemas, Part};

/// What is known about the checks of one call.
#[derive(Default)]
pub(super) struct CallChecks {
    /// The argument, if it is in Redis by now and was not checked yet.
    pub(super) stored: Option<Box<RawValue>>,
    /// The schemas that the argument was checked by.
    schemas: Option<Arc<ContractSchemas>>,
}

impl Dispatcher {
    /// Checks the argument of a call before it is sent to this owner. False if the contract has
    /// changed since it was routed.
    pub(super) async fn check_argument(
        &self,
        address: &ContractAddress,
        owner: &Assignment,
        job: &mut Job,
        checks: &mut CallChecks,
    ) -> Result<bool, ApiError> {
        let Job::Execute(execute) = job else {
            return Ok(true);
        };
        let digest = owner.schemas.as_deref();
        if checks
            .schemas
            .as_ref()
            .map(|schemas| schemas.digest.as_str())
            == digest
        {
            return Ok(true);
        }
        execute.schemas = digest.map(str::to_owned);
        checks.schemas = None;
        let Some(digest) = digest else {
            return Ok(true);
        };
        let Some(schemas) = self.schemas.get(address, digest).await? else {
            return Ok(false);
        };
        let argument = match &execute.argument {
            Argument::Json(json) => Some(json),
            Argument::Stored(_) | Argument::None => checks.stored.as_ref(),
        };
        if let Some(json) = argument {
            let (method, part) = (&execute.method, Part::Argument);
            self.schemas.check(&schemas, method, part, json).await?;
        }
        checks.schemas = Some(schemas);
        Ok(true)
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
                self.schemas.check(schemas, method, part, json).await
            }
            _ => Ok(()),
        }
    }
}
