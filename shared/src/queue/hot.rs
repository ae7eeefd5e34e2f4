//! The one connection that all hot commands of a process share.
//!
//! It reconnects by itself when it breaks. One that only falls silent, as after a firewall has
//! forgotten it, does not break: the kernel goes on sending for a quarter of an hour. So whoever
//! gets no answer in time has it replaced; what else waits on it may still be answered.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redis::aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig};
use redis::{Client, Cmd, Pipeline, RedisError, RedisFuture, RedisResult, Value};

/// Keeps the connection of the moment; cheap to clone.
#[derive(Clone)]
pub(super) struct Hot(Arc<Shared>);

struct Shared {
    client: Client,
    config: ConnectionManagerConfig,
    current: Mutex<Numbered>,
}

/// A connection, and how many there were before.
#[derive(Clone)]
struct Numbered {
    number: u64,
    manager: ConnectionManager,
}

/// The connection as one command uses it.
pub(super) struct HotConnection {
    used: Numbered,
    hot: Hot,
}

impl Hot {
    /// Connects.
    pub(super) async fn connect(
        client: Client,
        config: ConnectionManagerConfig,
    ) -> RedisResult<Self> {
        let manager = client
            .get_connection_manager_with_config(config.clone())
            .await?;
        Ok(Self(Arc::new(Shared {
            client,
            config,
            current: Mutex::new(Numbered { number: 0, manager }),
        })))
    }

    pub(super) fn connection(&self) -> HotConnection {
        HotConnection {
            used: self.current().clone(),
            hot: self.clone(),
        }
    }

    /// Has the next command make a connection anew, unless that was done since.
    fn replace(&self, silent: u64) {
        let mut current = self.current();
        if current.number != silent {
            return;
        }
        let Shared { client, config, .. } = &*self.0;
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
        // Nothing in here can panic half-way.
        self.0
            .current
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl HotConnection {
    fn note<T>(&self, answer: &Result<T, RedisError>) {
        if answer.as_ref().is_err_and(RedisError::is_timeout) {
            self.hot.replace(self.used.number);
        }
    }
}

impl ConnectionLike for HotConnection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            let answer = self.used.manager.req_packed_command(cmd).await;
            self.note(&answer);
            answer
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(async move {
            let manager = &mut self.used.manager;
            let answers = manager.req_packed_commands(pipeline, offset, count).await;
            self.note(&answers);
            answers
        })
    }

    fn get_db(&self) -> i64 {
        self.used.manager.get_db()
    }
}
