//! The one connection that all frequent commands of a process share.
//!
//! It reconnects by itself when it breaks. A connection that only falls silent does not break, for
//! example after a firewall has dropped its state: the kernel retries for a quarter of an hour. So
//! a command that times out has the connection replaced. Other commands that wait on the old
//! connection may still get their answers.

use std::io::ErrorKind;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig};
use redis::{Client, Cmd, Pipeline, RedisError, RedisFuture, RedisResult, Value};

/// Holds the current connection. Cheap to clone.
#[derive(Clone)]
pub(super) struct SharedConnection(Arc<Inner>);

struct Inner {
    client: Client,
    config: ConnectionManagerConfig,
    current: Mutex<Numbered>,
}

/// A connection with its sequence number.
#[derive(Clone)]
struct Numbered {
    number: u64,
    manager: ConnectionManager,
}

/// The connection as one command uses it.
pub(super) struct SharedHandle {
    used: Numbered,
    shared: SharedConnection,
    /// How long an answer is awaited at most.
    limit: Duration,
}

impl SharedConnection {
    /// Connects.
    pub(super) async fn connect(
        client: Client,
        config: ConnectionManagerConfig,
    ) -> RedisResult<Self> {
        let manager = client
            .get_connection_manager_with_config(config.clone())
            .await?;
        Ok(Self(Arc::new(Inner {
            client,
            config,
            current: Mutex::new(Numbered { number: 0, manager }),
        })))
    }

    pub(super) fn handle(&self, limit: Duration) -> SharedHandle {
        SharedHandle {
            used: self.current().clone(),
            shared: self.clone(),
            limit,
        }
    }

    /// Replaces the connection number `silent`, unless that has already happened. The next command
    /// connects.
    fn replace(&self, silent: u64) {
        let mut current = self.current();
        if current.number != silent {
            return;
        }
        let Inner { client, config, .. } = &*self.0;
        match client.get_connection_manager_lazy(config.clone()) {
            Ok(manager) => {
                *current = Numbered {
                    number: silent + 1,
                    manager,
                };
            }
            Err(error) => tracing::warn!(%error, "cannot replace a silent connection"),
        }
    }

    fn current(&self) -> MutexGuard<'_, Numbered> {
        // No code that holds the lock can panic half-way.
        self.0
            .current
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl SharedHandle {
    /// Awaits an answer within the limit, and replaces a connection that gives none.
    async fn in_time<T>(
        (number, shared, limit): (u64, SharedConnection, Duration),
        command: impl Future<Output = RedisResult<T>>,
    ) -> RedisResult<T> {
        let answer = tokio::time::timeout(limit, command)
            .await
            .unwrap_or_else(|_| Err(std::io::Error::from(ErrorKind::TimedOut).into()));
        if answer.as_ref().is_err_and(RedisError::is_timeout) {
            shared.replace(number);
        }
        answer
    }

    fn terms(&self) -> (u64, SharedConnection, Duration) {
        (self.used.number, self.shared.clone(), self.limit)
    }
}

impl ConnectionLike for SharedHandle {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            let terms = self.terms();
            Self::in_time(terms, self.used.manager.req_packed_command(cmd)).await
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(async move {
            let terms = self.terms();
            let manager = &mut self.used.manager;
            let answers = manager.req_packed_commands(pipeline, offset, count);
            Self::in_time(terms, answers).await
        })
    }

    fn get_db(&self) -> i64 {
        self.used.manager.get_db()
    }
}
