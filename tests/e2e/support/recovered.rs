//! The state of a farm that has recovered (I5): no call waits and nothing is left over.

use std::time::Duration;

use serde_json::Value;

use super::farm::Farm;
use super::process::Process;
use super::processes;
use super::wait;

/// How long recovery may take.
const LIMIT: Duration = Duration::from_secs(20);

/// Page processes that a browser keeps besides those of its contracts: one in reserve.
const SPARE: usize = 1;

impl Farm {
    /// Waits until no call waits in the queue and there is no surplus key, process or page.
    pub(crate) async fn wait_until_recovered(&mut self) {
        self.wait_until_recovered_within(LIMIT).await;
    }

    /// The same with another time limit.
    pub(crate) async fn wait_until_recovered_within(&mut self, limit: Duration) {
        wait::until_none(limit, async || {
            let mut problems = self.redis_problems().await;
            problems.extend(self.process_problems());
            problems.extend(self.contract_problems().await);
            problems
        })
        .await;
    }

    async fn redis_problems(&self) -> Vec<String> {
        let prefix = self.prefix();
        let mut problems = Vec::new();
        let workers = self.redis.workers(prefix).await;
        let apis: Vec<String> = self
            .redis_command(&["ZRANGE", &format!("{prefix}apis"), "0", "-1"])
            .await;
        for (what, known, processes) in [
            ("workers", &workers, &self.workers),
            ("apis", &apis, &self.apis),
        ] {
            // Registered processes that do not run, or the other way round.
            let running = processes.iter().filter(|process| runs(process)).count();
            // In a cluster an api is registered with each of its reply streams.
            let may_be_more = what == "apis" && self.redis.is_cluster();
            if known.len() < running || (known.len() > running && !may_be_more) {
                problems.push(format!("{running} {what} run, {known:?} are registered"));
            }
        }
        for key in self.redis.keys().await {
            let name = key.strip_prefix(prefix).unwrap_or(&key);
            let own = name.strip_prefix("{w:").or(name.strip_prefix("{a:"));
            if let Some((id, kind)) = own.and_then(|rest| rest.split_once("}:")) {
                let lives = workers.iter().chain(&apis).any(|known| known == id);
                // A stored argument is deleted with its call.
                if !lives || kind == "dead" || kind.starts_with("b:") {
                    problems.push(format!("the key {key}"));
                }
            }
            if name.starts_with("place:") || name.ends_with("}:in") {
                let length: usize = self.redis_command(&["XLEN", &key]).await;
                if length > 0 {
                    problems.push(format!("{length} entries in {key}"));
                }
            }
        }
        problems
    }

    fn process_problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for (number, worker) in self
            .workers
            .iter()
            .enumerate()
            .filter(|(_, worker)| runs(worker))
        {
            let zombies = processes::zombies(worker.pid());
            if !zombies.is_empty() {
                problems.push(format!("{} has not awaited {zombies:?}", worker.name()));
            }
            let browsers = self.browsers(number);
            if browsers.len() != 1 {
                problems.push(format!("{} has {browsers:?}", worker.name()));
            }
        }
        problems
    }

    async fn contract_problems(&self) -> Vec<String> {
        let Some(client) = self.clients.first() else {
            return Vec::new();
        };
        let contracts = client.contracts().await;
        let mut problems = Vec::new();
        for contract in &contracts {
            let address = contract["contractAddress"].as_str();
            let path = format!("/contracts/{}", address.expect("an address is text"));
            let answer = client.get(&path).await;
            let contract: Value = serde_json::from_str(&answer.body).unwrap_or_default();
            if contract["queueDepth"] != 0 || contract["host"].is_null() {
                problems.push(answer.body);
            }
        }
        let workers: Vec<_> = (0..self.workers.len())
            .filter(|number| runs(&self.workers[*number]))
            .collect();
        let pages: usize = workers
            .iter()
            .map(|number| self.renderers(*number).len())
            .sum();
        if pages > contracts.len() + SPARE * workers.len() {
            problems.push(format!(
                "{pages} processes for pages, {} contracts",
                contracts.len()
            ));
        }
        problems
    }
}

fn runs(process: &Process) -> bool {
    processes::runs(process.pid())
}
