//! Facts about the Redis server: settings, memory, uptime.

use std::time::Duration;

use futures::future::join_all;

use super::nodes::Node;
use super::servers::ServerName;
use super::timing::{ANSWERS_WITHIN, RESPONSE_TIMEOUT};
use super::{Queue, QueueError};

/// The memory of Redis, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// What its data and buffers take.
    pub used: u64,
    /// `maxmemory`. 0: there is no limit.
    pub limit: u64,
}

impl Memory {
    /// How much of the limit is used, in percent, rounded up. 0 if there is no limit.
    pub fn percent(self) -> u64 {
        match self.limit {
            0 => 0,
            limit => self.used.saturating_mul(100).div_ceil(limit),
        }
    }
}

impl Queue {
    /// Refuses a Redis that is too old, or evicts keys when memory is short. Warns if it would lose
    /// data at a restart.
    pub(super) async fn check_servers(&self) -> Result<(), QueueError> {
        for server in self.servers() {
            let name = server.name();
            if let (true, Err(error)) = (self.is_cluster(), self.check(&server).await) {
                tracing::warn!(server = %name, %error, "redis server does not answer, not checked");
                continue;
            }
            check_version(name, &self.info(&server, "server").await?)?;
            check_eviction(name, &self.info(&server, "memory").await?)?;
            if text(&self.info(&server, "persistence").await?, "aof_enabled") == Some("0") {
                tracing::warn!(
                    server = %name,
                    "redis has no append-only file: a restart loses calls and contracts"
                );
            }
        }
        Ok(())
    }

    /// How much memory a server uses.
    pub(super) async fn memory_of(&self, server: &Node) -> Result<Memory, QueueError> {
        let info = self.info(server, "memory").await?;
        let read = |name| field(&info, name).unwrap_or_default();
        Ok(Memory {
            used: read("used_memory"),
            limit: read("maxmemory"),
        })
    }

    /// How long a server has been running.
    pub(super) async fn uptime(&self, server: &Node) -> Result<Duration, QueueError> {
        let info = self.info(server, "server").await?;
        let seconds = field(&info, "uptime_in_seconds").unwrap_or_default();
        Ok(Duration::from_secs(seconds))
    }

    /// The same of the server that was started last. Servers that do not answer are left out.
    pub(super) async fn shortest_uptime(&self) -> Result<Duration, QueueError> {
        let servers = self.servers();
        let uptimes = servers.iter().map(async |server| {
            let answer = tokio::time::timeout(ANSWERS_WITHIN, self.uptime(server)).await;
            answer.ok()?.ok()
        });
        let known = join_all(uptimes).await.into_iter().flatten().min();
        known.ok_or_else(|| QueueError::Unexpected("no server of Redis answers".to_owned()))
    }

    async fn info(&self, server: &Node, section: &str) -> Result<String, QueueError> {
        let mut connection = self.counts().observed(server.shared(RESPONSE_TIMEOUT));
        Ok(redis::cmd("INFO")
            .arg(section)
            .query_async(&mut connection)
            .await?)
    }
}

/// The oldest version that has every command that the queue uses.
const OLDEST: (u32, u32) = (7, 0);

fn check_version(server: &ServerName, info: &str) -> Result<(), QueueError> {
    // Valkey states here the version of Redis that it is compatible with.
    let version = text(info, "redis_version").unwrap_or_default();
    let mut parts = version.split('.').map_while(|part| part.parse().ok());
    match (parts.next(), parts.next()) {
        (Some(major), Some(minor)) if (major, minor) < OLDEST => Err(QueueError::Settings(
            format!("{server} has version {version}; version 7.0 or later is needed"),
        )),
        (Some(_), Some(_)) => Ok(()),
        _ => {
            tracing::warn!(%server, version, "cannot read the version of redis");
            Ok(())
        }
    }
}

/// `INFO` states the policy also where a managed service hides `CONFIG`.
fn check_eviction(server: &ServerName, info: &str) -> Result<(), QueueError> {
    match text(info, "maxmemory_policy") {
        Some("noeviction") => Ok(()),
        Some(policy) => Err(QueueError::Settings(format!(
            "maxmemory-policy of {server} is {policy}: Redis would drop calls and contracts when \
             memory is short; set it to noeviction"
        ))),
        None => {
            tracing::warn!(
                %server,
                "cannot read maxmemory-policy of redis; it must be noeviction"
            );
            Ok(())
        }
    }
}

/// One number in the reply of `INFO`.
fn field(info: &str, name: &str) -> Option<u64> {
    text(info, name)?.parse().ok()
}

/// One value in the reply of `INFO`.
fn text<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines()
        .find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let info = "# Memory\r\nused_memory_rss:9\r\nused_memory:7\r\nmaxmemory:0\r\n";
        assert_eq!(field(info, "used_memory"), Some(7));
        assert_eq!(field(info, "missing"), None);
    }

    #[test]
    fn a_part_of_the_memory_is_rounded_up() {
        let memory = |used, limit| Memory { used, limit };
        assert_eq!(memory(800, 1000).percent(), 80);
        assert_eq!(memory(801, 1000).percent(), 81);
        assert_eq!(memory(801, 0).percent(), 0, "no limit");
    }

    #[test]
    fn an_old_version_is_refused() {
        let check =
            |version: &str| check_version(&"r".into(), &format!("redis_version:{version}\r\n"));
        assert!(check("7.0.15").is_ok() && check("10.2.0").is_ok());
        let error = check("6.2.14").unwrap_err().to_string();
        assert!(error.contains("6.2.14"), "{error}");
        assert!(check("unstable").is_ok(), "nobody knows");
    }

    #[test]
    fn every_policy_that_evicts_is_refused() {
        let check =
            |policy: &str| check_eviction(&"r".into(), &format!("maxmemory_policy:{policy}\r\n"));
        assert!(check("noeviction").is_ok());
        for policy in [
            "allkeys-lru",
            "allkeys-random",
            "volatile-lru",
            "volatile-ttl",
        ] {
            let error = check(policy).unwrap_err().to_string();
            assert!(error.contains(policy), "{error}");
        }
    }
}
