//! The one connection that all frequent commands to a server share.
//!
//! It reconnects by itself when it breaks. A connection that only falls silent does not break, for
//! example after a firewall has dropped its state: the kernel retries for a quarter of an hour. So
//! a command that times out has the connection replaced. Other commands that wait on the old
//! connection may still get their answers.
//!
//! A server that has become a replica refuses to write. The connection to it is replaced as well:
//! the next one is made to whatever server is the primary then.

use std::io::ErrorKind;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{Cmd, Pipeline, RedisError, RedisFuture, RedisResult, Value};
use tokio::time::Instant;

use super::connector::Connector;
use crate::queue::timing::{RECONNECT_FIRST, RESPONSE_TIMEOUT};

/// Holds the current connection. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct SharedConnection(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    connector: Connector,
    current: Mutex<Attempt>,
}

/// A connection, or the attempt to make it.
#[derive(Debug, Clone)]
struct Attempt {
    number: u64,
    began: Instant,
    connection: Shared<BoxFuture<'static, RedisResult<MultiplexedConnection>>>,
}

impl Attempt {
    fn new(connector: Connector, number: u64, begin: Instant) -> Self {
        let connecting = async move {
            tokio::time::sleep_until(begin).await;
            connector.connect(RESPONSE_TIMEOUT).await
        };
        Self {
            number,
            began: begin,
            connection: connecting.boxed().shared(),
        }
    }
}

/// The connection as one command uses it.
#[derive(Debug)]
pub(in crate::queue) struct SharedHandle {
    shared: SharedConnection,
    /// How long an answer is awaited at most.
    limit: Duration,
}

impl SharedConnection {
    /// Connects with the first command.
    pub(super) fn new(connector: Connector) -> Self {
        let first = Attempt::new(connector.clone(), 0, Instant::now());
        Self(Arc::new(Inner {
            connector,
            current: Mutex::new(first),
        }))
    }

    /// Waits until the connection is made, or cannot be made.
    pub(super) async fn connected(&self) -> RedisResult<()> {
        let attempt = self.current().clone();
        attempt.connection.await.map(drop)
    }

    /// The connection, if there is one at the moment.
    pub(super) fn peek(&self) -> Option<MultiplexedConnection> {
        let attempt = self.current().connection.clone();
        attempt.peek().and_then(|made| made.as_ref().ok().cloned())
    }

    pub(super) fn handle(&self, limit: Duration) -> SharedHandle {
        SharedHandle {
            shared: self.clone(),
            limit,
        }
    }

    /// Replaces connection number `lost`, unless that has already happened. The next command
    /// connects, some time after the last attempt at the earliest.
    fn replace(&self, lost: u64) {
        let mut current = self.current();
        if current.number == lost {
            let earliest = current.began + RECONNECT_FIRST;
            let begin = earliest.max(Instant::now());
            *current = Attempt::new(self.0.connector.clone(), lost + 1, begin);
        }
    }

    fn current(&self) -> MutexGuard<'_, Attempt> {
        // No code that holds the lock can panic half-way.
        let current = self.0.current.lock();
        current.unwrap_or_else(PoisonError::into_inner)
    }
}

impl SharedHandle {
    /// Awaits the answers to commands within the limit, and replaces a connection that is lost.
    async fn run<T: AsRef<[Value]>, F: Future<Output = RedisResult<T>>>(
        &self,
        commands: impl FnOnce(MultiplexedConnection) -> F,
    ) -> RedisResult<T> {
        let Attempt {
            number, connection, ..
        } = self.shared.current().clone();
        let mut is_connected = false;
        let command = async {
            let connection = connection.await?;
            is_connected = true;
            commands(connection).await
        };
        let answer = tokio::time::timeout(self.limit, command)
            .await
            .unwrap_or_else(|_| Err(std::io::Error::from(ErrorKind::TimedOut).into()));
        // Whatever prevented a connection, for example sentinels that know no primary yet or a
        // password that cannot be read, may be over at the next attempt.
        if !is_connected || is_lost(&answer) {
            self.shared.replace(number);
        }
        answer
    }
}

/// Whether an answer shows that the connection is of no use any more.
pub(super) fn is_lost<T: AsRef<[Value]>>(answer: &RedisResult<T>) -> bool {
    let is_replica = |value: &Value| match value {
        Value::ServerError(error) => error.code() == "READONLY",
        _ => false,
    };
    match answer {
        Ok(values) => values.as_ref().iter().any(is_replica),
        Err(error) => {
            error.is_timeout()
                || error.is_unrecoverable_error()
                || error.is_io_error()
                || has_code(error, "READONLY")
        }
    }
}

/// Whether one of the commands was refused with this code.
pub(super) fn has_code(error: &RedisError, code: &str) -> bool {
    let errors = error.clone().into_server_errors();
    errors.is_some_and(|errors| errors.iter().any(|(_, error)| error.code() == code))
}

impl ConnectionLike for SharedHandle {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            let answer = self.run(|mut connection| async move {
                let value = connection.req_packed_command(cmd).await?;
                Ok([value])
            });
            answer.await.map(|[value]| value)
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(async move {
            self.run(|mut connection| async move {
                connection
                    .req_packed_commands(pipeline, offset, count)
                    .await
            })
            .await
        })
    }

    fn get_db(&self) -> i64 {
        0
    }
}
