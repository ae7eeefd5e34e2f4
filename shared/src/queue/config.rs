//! The settings of the queue.

use std::time::Duration;

use secrecy::SecretString;

use super::timing::millis;
use crate::service::config::{Group, Reader, Setting};

const REDIS_URL: Setting = Setting::new(
    "REDIS_URL",
    "redis://127.0.0.1:6379",
    "Redis 7.0 or later. Its maxmemory-policy must be noeviction.",
)
.url();
const REDIS_PREFIX: Setting = Setting::new(
    "REDIS_PREFIX",
    "exec:",
    "Prefix of every key, so that several farms can share one Redis.",
);
const REAP_GRACE_MS: Setting = Setting::new(
    "REAP_GRACE_MS",
    "10000",
    "How long Redis must have been up before a worker without a lease counts as dead.",
);
const QUARANTINE_MS: Setting = Setting::new(
    "QUARANTINE_MS",
    "600000",
    "How long a crash-looping contract stays quarantined.",
);

/// The settings of the queue.
pub const QUEUE_SETTINGS: Group = Group {
    title: "Queue",
    settings: &[REDIS_URL, REDIS_PREFIX, REAP_GRACE_MS, QUARANTINE_MS],
};

/// How to reach Redis. Both programs use the same settings.
#[derive(Debug, Clone)]
pub struct RedisConfig {
    /// `REDIS_URL`. It may contain a password.
    pub url: SecretString,
    /// `REDIS_PREFIX`.
    pub prefix: String,
}

impl RedisConfig {
    /// Reads the settings.
    pub fn read(reader: &mut Reader) -> Self {
        let url = reader.string(&REDIS_URL);
        if redis::parse_redis_url(&url).is_none() {
            reader.refuse(&REDIS_URL, &url, "is not a redis:// or rediss:// URL");
        }
        let prefix = reader.string(&REDIS_PREFIX);
        if prefix.contains(['{', '}', '*', '?', '[', ']', ' ']) {
            reader.refuse(&REDIS_PREFIX, &prefix, "must not contain {}*?[] or spaces");
        }
        Self {
            url: url.into(),
            prefix,
        }
    }
}

/// When failover happens, and what follows it.
#[derive(Debug, Clone, Copy)]
pub struct ReaperConfig {
    /// `REAP_GRACE_MS`: after a restart of Redis all leases have lapsed, though the workers are
    /// alive. The default is three leases.
    pub grace: Duration,
    /// `QUARANTINE_MS`.
    pub quarantine: Duration,
}

impl ReaperConfig {
    /// Reads the settings.
    pub fn read(reader: &mut Reader) -> Self {
        Self {
            grace: reader.millis(&REAP_GRACE_MS, 0..=600_000),
            quarantine: reader.millis(&QUARANTINE_MS, 100..=86_400_000),
        }
    }

    /// The quarantine in milliseconds.
    pub fn quarantine_ms(self) -> u64 {
        millis(self.quarantine)
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;
    use crate::queue::timing::REAP_GRACE;
    use crate::service::config::Env;

    #[test]
    fn the_default_grace_is_that_of_the_protocol() {
        let mut reader = Reader::new(Env::table(|_| None));
        assert_eq!(ReaperConfig::read(&mut reader).grace, REAP_GRACE);
    }

    #[test]
    fn the_password_of_redis_is_not_shown() {
        let mut reader = Reader::new(Env::table(|name| {
            (name == "REDIS_URL").then(|| "redis://me:secret@x".to_owned())
        }));
        let config = RedisConfig::read(&mut reader);
        assert_eq!(config.url.expose_secret(), "redis://me:secret@x");
        assert!(!format!("{config:?} {}", reader.effective()).contains("secret@"));

        let mut reader = Reader::new(Env::table(|name| {
            (name == "REDIS_URL").then(|| "http://secret@x".to_owned())
        }));
        RedisConfig::read(&mut reader);
        let error = reader.finish().unwrap_err().to_string();
        assert!(error.starts_with("REDIS_URL"), "{error}");
        assert!(!error.contains("secret"), "{error}");
    }
}
