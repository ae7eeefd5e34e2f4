//! Reads the settings of a program, and collects everything that is wrong with them.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use super::{ConfigError, ConfigErrors, Setting, Value};

/// Where variables come from: the environment of the process, or a table in tests.
#[derive(Debug, Clone, Copy)]
pub struct Env(fn(&str) -> Option<String>);

impl Env {
    /// The environment of this process.
    pub fn process() -> Self {
        Self(|name| std::env::var(name).ok())
    }

    /// A table that replaces the environment.
    pub fn table(lookup: fn(&str) -> Option<String>) -> Self {
        Self(lookup)
    }

    /// The text of the variable; an empty one counts as unset.
    pub fn text(&self, name: &str) -> Option<String> {
        (self.0)(name).filter(|value| !value.is_empty())
    }
}

/// Reads settings one by one. A value that is wrong is noted and replaced by the default, so that
/// one start reports all of them: see [`Self::finish`].
#[derive(Debug)]
pub struct Reader {
    env: Env,
    errors: Vec<ConfigError>,
    effective: Vec<String>,
}

impl Reader {
    /// Reads from `env`.
    pub fn new(env: Env) -> Self {
        Self {
            env,
            errors: Vec::new(),
            effective: Vec::new(),
        }
    }

    /// The environment itself, for what is read in another way.
    pub fn env(&self) -> Env {
        self.env
    }

    /// The value of a setting, or its default where that is a text.
    pub fn text(&mut self, setting: &Setting) -> Option<String> {
        let value = self.env.text(setting.name).or(match setting.default {
            Value::Text(default) => Some(default.to_owned()),
            Value::Described(_) => None,
        });
        if let Some(value) = &value {
            let shown = setting.shown(value);
            self.effective.push(format!("{}={shown}", setting.name));
        }
        value
    }

    /// The value of a setting that always has one.
    pub fn string(&mut self, setting: &Setting) -> String {
        self.text(setting).expect("the setting has a default")
    }

    /// The value parsed, or the default.
    pub fn parse<T>(&mut self, setting: &Setting) -> T
    where
        T: FromStr<Err: Display>,
    {
        let fallback = parsed_default(setting);
        self.parse_optional(setting).unwrap_or(fallback)
    }

    /// The value parsed; none where the setting is unset and has no default.
    pub fn parse_optional<T>(&mut self, setting: &Setting) -> Option<T>
    where
        T: FromStr<Err: Display>,
    {
        let value = self.text(setting)?;
        let parsed = value.trim().parse();
        parsed
            .map_err(|reason| self.refuse(setting, &value, reason))
            .ok()
    }

    /// A number within `range`, or the default.
    pub fn number<T>(&mut self, setting: &Setting, range: RangeInclusive<T>) -> T
    where
        T: FromStr<Err: Display> + PartialOrd + Display + Copy,
    {
        self.number_or(setting, parsed_default(setting), range)
    }

    /// A number within `range`, or `default`, which is computed.
    pub fn number_or<T>(&mut self, setting: &Setting, default: T, range: RangeInclusive<T>) -> T
    where
        T: FromStr<Err: Display> + PartialOrd + Display + Copy,
    {
        let Some(number) = self.parse_optional::<T>(setting) else {
            return default;
        };
        if range.contains(&number) {
            return number;
        }
        let reason = format!("must be {} to {}", range.start(), range.end());
        self.refuse(setting, &number.to_string(), reason);
        default
    }

    /// A time span given in milliseconds.
    pub fn millis(&mut self, setting: &Setting, range: RangeInclusive<u64>) -> Duration {
        Duration::from_millis(self.number(setting, range))
    }

    /// Notes that a value cannot be used.
    pub fn refuse(&mut self, setting: &Setting, value: &str, reason: impl Display) {
        let shown = setting.shown(value);
        self.errors
            .push(ConfigError::new(setting.name, shown, reason));
    }

    /// What was read in another way; the default where that failed.
    pub fn check<T: Default>(&mut self, read: Result<T, ConfigError>) -> T {
        read.unwrap_or_else(|error| {
            self.errors.push(error);
            T::default()
        })
    }

    /// All values that were read, as `NAME=value` separated by spaces; secrets are hidden.
    pub fn effective(&self) -> String {
        self.effective.join(" ")
    }

    /// Fails with all errors, if there are any.
    pub fn finish(self) -> Result<(), ConfigErrors> {
        if self.errors.is_empty() {
            return Ok(());
        }
        Err(ConfigErrors(self.errors))
    }
}

fn parsed_default<T: FromStr>(setting: &Setting) -> T {
    let Value::Text(default) = setting.default else {
        panic!("{} has no default to parse", setting.name);
    };
    let parsed = default.parse().ok();
    parsed.unwrap_or_else(|| panic!("the default of {} is valid", setting.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORT: Setting = Setting::new("PORT", "80", "");
    const LIMIT: Setting = Setting::new("LIMIT", "1", "");
    const OTHER: Setting = Setting::new("OTHER", "3", "");
    const TOKEN: Setting = Setting::optional("TOKEN", "none", "").secret();

    fn reader() -> Reader {
        Reader::new(Env::table(|name| match name {
            "PORT" => Some("80a".to_owned()),
            "LIMIT" => Some("7".to_owned()),
            "TOKEN" => Some("abc".to_owned()),
            _ => None,
        }))
    }

    #[test]
    fn an_unset_variable_has_its_default() {
        let mut reader = reader();
        assert_eq!(reader.parse::<u16>(&OTHER), 3);
        assert_eq!(reader.finish(), Ok(()));
    }

    #[test]
    fn all_errors_are_reported_at_once() {
        let mut reader = reader();
        assert_eq!(reader.parse::<u16>(&PORT), 80);
        assert_eq!(reader.number(&LIMIT, 1..=5), 1);
        let errors = reader.finish().unwrap_err();
        assert_eq!(
            errors.to_string(),
            "2 settings are invalid\n  \
             PORT=80a: invalid digit found in string\n  \
             LIMIT=7: must be 1 to 5"
        );
    }

    #[test]
    fn a_secret_is_neither_logged_nor_repeated_in_an_error() {
        let mut reader = reader();
        assert_eq!(reader.parse_optional::<u16>(&TOKEN), None);
        assert_eq!(reader.effective(), "TOKEN=[hidden]");
        let error = reader.finish().unwrap_err().to_string();
        assert_eq!(error, "TOKEN=[hidden]: invalid digit found in string");
    }
}
