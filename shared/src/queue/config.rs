//! The settings of the queue.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

use super::nodes::{Address, Files as RedisFiles};
use super::timing::millis;
use crate::service::config::{Group, Reader, Setting};

const REDIS_URL: Setting = Setting::new(
    "REDIS_URL",
    "redis://127.0.0.1:6379",
    "Redis 7.0 or later. Its maxmemory-policy must be noeviction.",
)
.url();
const REDIS_PASSWORD_FILE: Setting = Setting::optional(
    "REDIS_PASSWORD_FILE",
    "none",
    "File with the password for Redis, instead of one in REDIS_URL.",
);
const REDIS_CA_FILE: Setting = Setting::optional(
    "REDIS_CA_FILE",
    "those of the system",
    "PEM file of the authorities to trust with rediss://.",
);
const REDIS_CERT_FILE: Setting = Setting::optional(
    "REDIS_CERT_FILE",
    "none",
    "PEM file of the certificate to show to Redis, if it asks for one.",
);
const REDIS_KEY_FILE: Setting = Setting::optional(
    "REDIS_KEY_FILE",
    "none",
    "PEM file of the key of REDIS_CERT_FILE.",
);
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
    settings: &[
        REDIS_URL,
        REDIS_PASSWORD_FILE,
        REDIS_CA_FILE,
        REDIS_CERT_FILE,
        REDIS_KEY_FILE,
        REDIS_PREFIX,
        REAP_GRACE_MS,
        QUARANTINE_MS,
    ],
};

/// How to reach Redis. Both programs use the same settings.
#[derive(Debug, Clone)]
pub struct RedisConfig {
    /// `REDIS_URL`. It may contain a password.
    pub url: SecretString,
    /// What is not in the URL.
    pub files: RedisFiles,
    /// `REDIS_PREFIX`.
    pub prefix: String,
}

impl RedisConfig {
    /// Reads the settings.
    pub fn read(reader: &mut Reader) -> Self {
        let url = reader.string(&REDIS_URL);
        let files = read_files(reader);
        if let Err(error) = Address::parse(&url, files.clone()) {
            reader.refuse(&REDIS_URL, &url, error.to_string());
        }
        let prefix = reader.string(&REDIS_PREFIX);
        if prefix.contains(['{', '}', '*', '?', '[', ']', ' ']) {
            reader.refuse(&REDIS_PREFIX, &prefix, "must not contain {}*?[] or spaces");
        }
        Self {
            url: url.into(),
            files,
            prefix,
        }
    }
}

fn read_files(reader: &mut Reader) -> RedisFiles {
    let mut file = |setting| reader.text(setting).map(PathBuf::from);
    let files = RedisFiles {
        ca: file(&REDIS_CA_FILE),
        certificate: file(&REDIS_CERT_FILE),
        key: file(&REDIS_KEY_FILE),
        password: file(&REDIS_PASSWORD_FILE),
    };
    if files.certificate.is_some() != files.key.is_some() {
        let text = "needs REDIS_KEY_FILE, and the other way round";
        reader.refuse(&REDIS_CERT_FILE, "", text);
    }
    files
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
