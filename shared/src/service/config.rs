//! Configuration from environment variables: reading one, and one clear message when it is wrong.
//!
//! Which variables exist is each program's business, in its own `config.rs`.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

/// A variable that cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}={value}: {reason}")]
pub struct ConfigError {
    name: &'static str,
    value: String,
    reason: String,
}

impl ConfigError {
    /// Blames the variable `name`, which holds `value`.
    pub fn new(name: &'static str, value: impl Into<String>, reason: impl Display) -> Self {
        Self {
            name,
            value: value.into(),
            reason: reason.to_string(),
        }
    }
}

/// Where variables come from: the process' environment, or a table in tests.
#[derive(Debug, Clone, Copy)]
pub struct Env(fn(&str) -> Option<String>);

impl Env {
    /// The environment of this process.
    pub fn process() -> Self {
        Self(|name| std::env::var(name).ok())
    }

    /// A table that answers for the environment.
    pub fn table(lookup: fn(&str) -> Option<String>) -> Self {
        Self(lookup)
    }

    /// The variable's text; an empty one counts as unset.
    pub fn text(&self, name: &'static str) -> Option<String> {
        (self.0)(name).filter(|value| !value.is_empty())
    }

    /// The variable parsed, or `default` where it is unset.
    pub fn parse<T>(&self, name: &'static str, default: T) -> Result<T, ConfigError>
    where
        T: FromStr<Err: Display>,
    {
        let Some(value) = self.text(name) else {
            return Ok(default);
        };
        value
            .trim()
            .parse()
            .map_err(|reason| ConfigError::new(name, value, reason))
    }

    /// A number within `range`.
    pub fn number<T>(
        &self,
        name: &'static str,
        default: T,
        range: RangeInclusive<T>,
    ) -> Result<T, ConfigError>
    where
        T: FromStr<Err: Display> + PartialOrd + Display + Copy,
    {
        let number = self.parse(name, default)?;
        if range.contains(&number) {
            return Ok(number);
        }
        let reason = format!("must be {} to {}", range.start(), range.end());
        Err(ConfigError::new(name, number.to_string(), reason))
    }

    /// A time span given in milliseconds.
    pub fn millis(
        &self,
        name: &'static str,
        default: u64,
        range: RangeInclusive<u64>,
    ) -> Result<Duration, ConfigError> {
        self.number(name, default, range).map(Duration::from_millis)
    }
}

/// How to reach the queue; the same for both programs.
#[derive(Debug, Clone)]
pub struct RedisConfig {
    /// `REDIS_URL`, by default `redis://127.0.0.1:6379`.
    pub url: String,
    /// `REDIS_PREFIX`, by default `exec:`. Stands before every key, so that farms can share one
    /// Redis.
    pub prefix: String,
}

impl RedisConfig {
    /// Reads the variables.
    pub fn from_env(env: Env) -> Result<Self, ConfigError> {
        let url = env
            .text("REDIS_URL")
            .unwrap_or_else(|| "redis://127.0.0.1:6379".to_owned());
        if redis::parse_redis_url(&url).is_none() {
            // The value may hold a password: it is not repeated.
            return Err(ConfigError::new(
                "REDIS_URL",
                "...",
                "is no redis:// or rediss:// URL",
            ));
        }
        let prefix = env
            .text("REDIS_PREFIX")
            .unwrap_or_else(|| "exec:".to_owned());
        if prefix.contains(['{', '}', '*', '?', '[', ']', ' ']) {
            return Err(ConfigError::new(
                "REDIS_PREFIX",
                prefix,
                "must not hold {}*?[] or spaces",
            ));
        }
        Ok(Self { url, prefix })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env() -> Env {
        Env::table(|name| match name {
            "PORT" => Some("80a".to_owned()),
            "LIMIT" => Some("7".to_owned()),
            "REDIS_URL" => Some("http://secret@x".to_owned()),
            _ => None,
        })
    }

    #[test]
    fn an_unset_variable_has_its_default() {
        assert_eq!(env().parse("OTHER", 3_u16), Ok(3));
    }

    #[test]
    fn a_wrong_value_names_its_variable() {
        let error = env().parse("PORT", 80_u16).unwrap_err();
        assert_eq!(error.to_string(), "PORT=80a: invalid digit found in string");
        let error = env().number("LIMIT", 1, 1..=5).unwrap_err();
        assert_eq!(error.to_string(), "LIMIT=7: must be 1 to 5");
    }

    #[test]
    fn a_wrong_url_is_not_repeated() {
        let error = RedisConfig::from_env(env()).unwrap_err();
        assert!(error.to_string().starts_with("REDIS_URL"), "{error}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}
