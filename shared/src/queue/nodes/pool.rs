//! Connections for commands that are not part of every call, such as storing an executable.

use deadpool::Runtime;
use deadpool::managed::{self, Metrics, Object, RecycleResult};
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{Cmd, Pipeline, RedisError, RedisFuture, RedisResult, Value};

use super::connector::Connector;
use super::shared_connection::is_lost;
use crate::queue::timing::{CONNECT_TIMEOUT, PATIENT_RESPONSE_TIMEOUT, RESPONSE_TIMEOUT};

/// Connections to one server at most.
const SIZE: usize = 16;

/// Why there is no connection.
pub(in crate::queue) type PoolError = managed::PoolError<RedisError>;

/// The connections to one server. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Pool(managed::Pool<Connector>);

impl Pool {
    pub(super) fn new(connector: Connector) -> Self {
        let pool = managed::Pool::builder(connector)
            .max_size(SIZE)
            .runtime(Runtime::Tokio1)
            .create_timeout(Some(CONNECT_TIMEOUT))
            .wait_timeout(Some(RESPONSE_TIMEOUT))
            .recycle_timeout(Some(RESPONSE_TIMEOUT))
            .build()
            .expect("a pool with timeouts has a runtime");
        Self(pool)
    }

    /// A free connection, or a new one.
    pub(super) async fn get(&self) -> Result<Pooled, PoolError> {
        let connection = self.0.get().await?;
        Ok(Pooled(Some(connection)))
    }
}

impl managed::Manager for Connector {
    type Type = MultiplexedConnection;
    type Error = RedisError;

    /// The library's own limit for an answer is 500 ms, less than the frequent commands get.
    async fn create(&self) -> Result<MultiplexedConnection, RedisError> {
        self.connect(PATIENT_RESPONSE_TIMEOUT).await
    }

    async fn recycle(
        &self,
        connection: &mut MultiplexedConnection,
        _: &Metrics,
    ) -> RecycleResult<RedisError> {
        Ok(redis::cmd("PING").exec_async(connection).await?)
    }
}

/// A connection of the pool. None once it is of no use any more: it does not return to the pool.
#[derive(Debug)]
pub(in crate::queue) struct Pooled(Option<Object<Connector>>);

impl Pooled {
    fn connection(&mut self) -> RedisResult<&mut MultiplexedConnection> {
        let closed = || RedisError::from(std::io::Error::from(std::io::ErrorKind::NotConnected));
        let connection = self.0.as_deref_mut();
        connection.ok_or_else(closed)
    }

    fn keep_unless_lost<T: AsRef<[Value]>>(&mut self, answer: &RedisResult<T>) {
        if is_lost(answer)
            && let Some(connection) = self.0.take()
        {
            drop(Object::take(connection));
        }
    }
}

impl ConnectionLike for Pooled {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            let answer = self.connection()?.req_packed_command(cmd).await;
            let answer = answer.map(|value| [value]);
            self.keep_unless_lost(&answer);
            answer.map(|[value]| value)
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(async move {
            let connection = self.connection()?;
            let answer = connection
                .req_packed_commands(pipeline, offset, count)
                .await;
            self.keep_unless_lost(&answer);
            answer
        })
    }

    fn get_db(&self) -> i64 {
        self.0.as_ref().map_or(0, |connection| connection.get_db())
    }
}
