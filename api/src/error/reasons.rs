//! Failures that several routes report, with their texts.

use shared::protocol::job::EngineKind;

use super::{ApiError, Fields};

impl ApiError {
    /// A request with one invalid field.
    pub(crate) fn field(name: &'static str, reason: impl Into<String>) -> Self {
        let reason = reason.into();
        Self::InvalidRequest(format!("{name} {reason}"), Fields::from([(name, reason)]))
    }

    /// The queue cannot be reached at the moment.
    pub(crate) fn queue_unavailable() -> Self {
        Self::QueueUnavailable("The queue is unavailable. Try again later".to_owned())
    }

    /// This process has reached its limit of requests in progress.
    pub(crate) fn too_many_requests() -> Self {
        Self::Overloaded("Too many requests are in progress. Try again later".to_owned())
    }

    /// The bodies of other requests occupy all bytes that bodies may.
    pub(crate) fn too_many_bytes() -> Self {
        Self::Overloaded("Too many large requests are in progress. Try again later".to_owned())
    }

    /// As many loads are in progress as may be.
    pub(crate) fn too_many_loads() -> Self {
        Self::Overloaded("Too many loads are in progress. Try again later".to_owned())
    }

    /// As many clients follow contracts as may.
    pub(crate) fn too_many_followers() -> Self {
        Self::Overloaded("Too many clients follow contracts. Try again later".to_owned())
    }

    /// Redis is too full for a request of this kind.
    pub(crate) fn low_memory() -> Self {
        let message = "The queue is low on memory. Unload contracts, or try again later";
        Self::Overloaded(message.to_owned())
    }

    /// The contract is loaded, but is not assigned to a worker.
    pub(crate) fn no_owner() -> Self {
        Self::NoCapacity("No worker runs the contract at the moment. Try again later".to_owned())
    }

    /// The worker that the contract was assigned to last could not get its image.
    pub(crate) fn image_missing() -> Self {
        let message = "No worker has the contract's image, which GET /contracts/{contractAddress} \
            shows. Make it available there, or load the contract again";
        Self::ImageUnavailable(message.to_owned())
    }

    /// None of `workers` can take another contract of this kind.
    pub(crate) fn no_room(workers: usize, engine: EngineKind) -> Self {
        Self::NoCapacity(format!(
            "None of {workers} workers has room for another {engine} contract. \
            Unload a contract or add a worker"
        ))
    }

    /// The executables of all contracts would take more than `limit` bytes.
    pub(crate) fn no_room_for_executable(limit: u64) -> Self {
        Self::NoCapacity(format!(
            "The executables of all contracts would take more than {limit} bytes. \
            Unload contracts, or raise EXECUTABLES_LIMIT_BYTES"
        ))
    }

    /// No worker is alive.
    pub(crate) fn no_live_worker() -> Self {
        Self::NoCapacity("No worker is running. Start one".to_owned())
    }

    /// The deadline passed without a reply.
    pub(crate) fn no_reply() -> Self {
        let message = "No reply arrived before the deadline. The request may still run";
        Self::ExecutionTimeout(message.to_owned())
    }
}
