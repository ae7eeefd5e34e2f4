//! The schemas of contracts: compiled once, kept, and applied to arguments and results.
//!
//! A contract's record holds the digest of its schemas, so that a contract without any costs
//! nothing. The text is read when it is needed for the first time. `dispatch` decides which calls
//! are checked; `shared::schemas` what a schema may be and what a check may cost.

pub(crate) mod description;

use std::sync::Arc;

use moka::sync::Cache;
use serde_json::value::RawValue;
use shared::protocol::id::ContractAddress;
use shared::protocol::schemas::SchemaText;
use shared::queue::Queue;
use shared::schemas::{Check, Rejection, Schemas, Violation};
use tokio::sync::Semaphore;

use crate::error::ApiError;

/// The compiled schemas that are kept, in bytes of memory, as [`Schemas::memory`] estimates them.
const KEPT: u64 = 64 << 20;

/// How many checks may run at once that take longer than a few milliseconds.
const LONG_CHECKS: usize = 1;

/// A longer text is not checked between other calls on the same thread.
const SHORT: usize = 16 << 10;

/// The compiled schemas of all contracts.
#[derive(Clone)]
pub(crate) struct SchemaCache {
    queue: Queue,
    /// By the digests of their texts.
    compiled: Cache<String, Arc<ContractSchemas>>,
    /// One text at a time is compiled.
    compiling: Arc<Semaphore>,
    checking: Arc<Semaphore>,
}

/// The schemas of one contract.
pub(crate) struct ContractSchemas {
    pub(crate) digest: String,
    schemas: Schemas,
    /// One long check at a time, so that the contract does not keep the others from theirs.
    turn: Arc<Semaphore>,
}

/// Which of the two texts of a call is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Argument,
    Result,
}

impl SchemaCache {
    pub(crate) fn new(queue: Queue) -> Self {
        let weight = |digest: &String, schemas: &Arc<ContractSchemas>| {
            u32::try_from(digest.len() + schemas.memory()).unwrap_or(u32::MAX)
        };
        Self {
            queue,
            compiled: Cache::builder().max_capacity(KEPT).weigher(weight).build(),
            compiling: Arc::new(Semaphore::new(1)),
            checking: Arc::new(Semaphore::new(LONG_CHECKS)),
        }
    }

    /// The schemas with this digest, if they are compiled.
    pub(crate) fn known(&self, digest: &str) -> Option<Arc<ContractSchemas>> {
        self.compiled.get(digest)
    }

    /// The schemas of a contract whose record names this digest. None if the record has changed
    /// since, or Redis has lost it.
    pub(crate) async fn get(
        &self,
        address: &ContractAddress,
        digest: &str,
    ) -> Result<Option<Arc<ContractSchemas>>, ApiError> {
        if let Some(known) = self.known(digest) {
            return Ok(Some(known));
        }
        // A server of Redis that does not answer must not hold up those who compile.
        let Some(text) = self.queue.schemas(address).await? else {
            return Ok(None);
        };
        let place = self.compiling.clone().acquire_owned().await;
        let place = place.expect("the semaphore is never closed");
        if let Some(known) = self.known(digest) {
            return Ok(Some(known));
        }
        let (digest, compiled) = (digest.to_owned(), self.compiled.clone());
        // It goes on when nobody waits any more: the next call finds them.
        let compiling = tokio::task::spawn_blocking(move || {
            let schemas = compile(digest, &text);
            if let Some(schemas) = &schemas {
                compiled.insert(schemas.digest.clone(), schemas.clone());
            }
            drop(place);
            schemas
        });
        Ok(compiling.await.expect("compiling does not panic"))
    }

    /// Checks an argument or a result. Violations become the error of the call.
    pub(crate) async fn check(
        &self,
        schemas: &Arc<ContractSchemas>,
        method: &str,
        part: Part,
        json: &RawValue,
    ) -> Result<(), ApiError> {
        let Some(check) = schemas.check_of(method, part) else {
            return Ok(());
        };
        let mut checked = Err(Rejection::TooCostly);
        if json.get().len() <= SHORT {
            checked = check.check_quickly(json.get());
        }
        if checked == Err(Rejection::TooCostly) {
            checked = Box::pin(self.check_long(schemas, method, part, json)).await;
        }
        checked.map_err(|rejection| {
            let violations = violations(rejection);
            match part {
                Part::Argument => ApiError::ArgumentInvalid(violations),
                Part::Result => ApiError::ResultInvalid(violations),
            }
        })
    }

    async fn check_long(
        &self,
        schemas: &Arc<ContractSchemas>,
        method: &str,
        part: Part,
        json: &RawValue,
    ) -> Result<(), Rejection> {
        let closed = "the semaphore is never closed";
        let turn = schemas.turn.clone().acquire_owned().await.expect(closed);
        let place = self.checking.clone().acquire_owned().await.expect(closed);
        let (schemas, method, json) = (schemas.clone(), method.to_owned(), json.to_owned());
        let checking = tokio::task::spawn_blocking(move || {
            let check = schemas.check_of(&method, part);
            let checked = check.map_or(Ok(()), |check| check.check(json.get()));
            drop((place, turn));
            checked
        });
        checking.await.expect("a check does not panic")
    }
}

impl ContractSchemas {
    /// Whether a short text is found valid between other calls. If not, [`SchemaCache::check`]
    /// decides.
    pub(crate) fn is_soon_valid(&self, method: &str, part: Part, json: &RawValue) -> bool {
        let Some(check) = self.check_of(method, part) else {
            return true;
        };
        json.get().len() <= SHORT && check.is_quickly_valid(json.get())
    }

    fn memory(&self) -> usize {
        self.schemas.memory()
    }

    fn check_of(&self, method: &str, part: Part) -> Option<&Check> {
        match part {
            Part::Argument => self.schemas.argument(method),
            Part::Result => self.schemas.result(method),
        }
    }
}

/// Compiles the text of a contract's record. None if the record has changed since its digest was
/// read: then the caller reads it again.
fn compile(digest: String, text: &str) -> Option<Arc<ContractSchemas>> {
    if SchemaText::new(text).digest() != digest {
        return None;
    }
    match Schemas::compile(text) {
        Ok(schemas) => Some(Arc::new(ContractSchemas {
            digest,
            schemas,
            turn: Arc::new(Semaphore::new(1)),
        })),
        Err(error) => {
            // The worker has compiled them.
            tracing::error!(digest, %error, "schemas of a contract do not compile");
            None
        }
    }
}

/// What the caller is told.
fn violations(rejection: Rejection) -> Vec<Violation> {
    let whole = |message: String| {
        vec![Violation {
            path: String::new(),
            message,
        }]
    };
    match rejection {
        Rejection::Violations(violations) => violations,
        Rejection::Unreadable(reason) => whole(format!("cannot be checked by a schema: {reason}")),
        Rejection::TooCostly => {
            whole("cannot be checked by its schema: that takes too long".to_owned())
        }
    }
}
