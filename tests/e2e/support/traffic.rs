//! Callers that call without a pause and notice every failure during a change.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::json;
use tokio::task::JoinSet;

use super::client::{Answer, Client};
use super::wait::{self, DEFAULT_LIMIT};

/// Callers per api.
const CALLERS: usize = 4;

/// Callers of one method, each sending its next call when the last one is answered.
pub(crate) struct Traffic {
    ended: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    callers: JoinSet<Vec<Answer>>,
}

impl Traffic {
    /// Starts calling through every client.
    pub(crate) fn start(clients: &[Client], address: &str, method: &str) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicUsize::new(0));
        let mut callers = JoinSet::new();
        for client in clients.iter().cycle().take(clients.len() * CALLERS) {
            let (client, ended, answered) = (client.clone(), ended.clone(), answered.clone());
            let (address, method) = (address.to_owned(), method.to_owned());
            callers.spawn(async move {
                let mut answers = Vec::new();
                while !ended.load(Ordering::Relaxed) {
                    answers.push(
                        client
                            .execute(&address, &method, &json!(answers.len()))
                            .await,
                    );
                    answered.fetch_add(1, Ordering::Relaxed);
                }
                answers
            });
        }
        Self {
            ended,
            answered,
            callers,
        }
    }

    /// Waits until every caller has received some more answers.
    pub(crate) async fn flows(&self) {
        let enough = self.answered.load(Ordering::Relaxed) + 4 * self.callers.len();
        wait::until_true("traffic to flow", DEFAULT_LIMIT, async || {
            self.answered.load(Ordering::Relaxed) >= enough
        })
        .await;
    }

    /// Ends the callers and returns every answer.
    pub(crate) async fn end(self) -> Vec<Answer> {
        self.ended.store(true, Ordering::Relaxed);
        self.callers.join_all().await.concat()
    }
}
