//! The errors of the queue.

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// Redis is unreachable or refuses the command.
    #[error("Redis: {0}")]
    Redis(#[from] redis::RedisError),
    /// No pooled connection became free in time.
    #[error("Redis connection pool: {0}")]
    Pool(#[from] deadpool_redis::PoolError),
    /// Redis is configured in a way that loses data.
    #[error("Redis settings: {0}")]
    Settings(String),
    /// Redis holds data that this version did not write.
    #[error("unexpected data in Redis: {0}")]
    Unexpected(String),
}

impl QueueError {
    /// Whether the command may have been carried out nevertheless. It was not if Redis refused it
    /// or could not be reached at all.
    pub fn is_ambiguous(&self) -> bool {
        match self {
            Self::Redis(error) => error.code().is_none() && !error.is_connection_refusal(),
            Self::Pool(_) | Self::Settings(_) => false,
            Self::Unexpected(_) => true,
        }
    }

    /// Whether Redis reports that the stream or its group does not exist.
    pub fn is_no_group(&self) -> bool {
        matches!(self, Self::Redis(error) if error.code() == Some("NOGROUP"))
    }
}
