//! Facts about the Redis server: settings, memory, uptime.

use std::time::Duration;

use super::{Queue, QueueError};

/// The memory of Redis, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    /// Refuses a Redis that evicts keys when memory is short.
    pub(super) async fn check_settings(&self) -> Result<(), QueueError> {
        let policy: Result<(String, String), _> = redis::cmd("CONFIG")
            .arg(&["GET", "maxmemory-policy"])
            .query_async(&mut self.pooled().await?)
            .await;
        match policy {
            Ok((_, policy)) if policy != "noeviction" => Err(QueueError::Settings(format!(
                "maxmemory-policy is {policy}: Redis would drop calls and contracts when memory is \
                 short; set it to noeviction"
            ))),
            Ok(_) => Ok(()),
            Err(error) => {
                tracing::warn!(%error, "cannot read maxmemory-policy of Redis; it must be noeviction");
                Ok(())
            }
        }
    }

    /// How much memory Redis uses.
    pub async fn memory(&self) -> Result<Memory, QueueError> {
        let info = self.info("memory").await?;
        let read = |name| field(&info, name).unwrap_or_default();
        Ok(Memory {
            used: read("used_memory"),
            limit: read("maxmemory"),
        })
    }

    /// How long Redis has been running.
    pub async fn uptime(&self) -> Result<Duration, QueueError> {
        let info = self.info("server").await?;
        let seconds = field(&info, "uptime_in_seconds").unwrap_or_default();
        Ok(Duration::from_secs(seconds))
    }

    async fn info(&self, section: &str) -> Result<String, QueueError> {
        Ok(redis::cmd("INFO")
            .arg(section)
            .query_async(&mut self.shared())
            .await?)
    }
}

/// One number in the reply of `INFO`.
fn field(info: &str, name: &str) -> Option<u64> {
    info.lines().find_map(|line| {
        line.strip_prefix(name)?
            .strip_prefix(':')?
            .trim()
            .parse()
            .ok()
    })
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
}
