//! The errors of the queue.

use crate::protocol::id::WorkerId;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// Redis is unreachable or refuses the command.
    #[error("Redis: {0}")]
    Redis(#[from] redis::RedisError),
    /// No pooled connection became free in time.
    #[error("Redis connection pool: {0}")]
    Pool(#[from] super::nodes::PoolError),
    /// Redis is configured in a way that loses data.
    #[error("Redis settings: {0}")]
    Settings(String),
    /// A worker was fenced, so it can own no contract under its id any more.
    #[error("the worker {0} is fenced")]
    Fenced(WorkerId),
    /// Redis holds data that this version did not write.
    #[error("unexpected data in Redis: {0}")]
    Unexpected(String),
}

impl QueueError {
    /// Whether the command may have been carried out nevertheless. It was not if Redis refused it
    /// or could not be reached at all.
    pub fn is_ambiguous(&self) -> bool {
        match self {
            Self::Redis(error) => !is_refusal(error) && !error.is_connection_refusal(),
            Self::Pool(_) | Self::Settings(_) | Self::Fenced(_) => false,
            Self::Unexpected(_) => true,
        }
    }

    /// Whether Redis reports that the stream or its group does not exist.
    pub fn is_no_group(&self) -> bool {
        matches!(self, Self::Redis(error) if error.code() == Some("NOGROUP"))
    }
}

/// Whether Redis answered that it did not carry out the command. In a pipeline the first command
/// counts: it is the one that changes something.
fn is_refusal(error: &redis::RedisError) -> bool {
    let refused = error.clone().into_server_errors();
    let is_first = |errors: &[(usize, _)]| errors.iter().any(|(index, _)| *index == 0);
    error.code().is_some() || refused.is_some_and(|errors| is_first(&errors))
}
