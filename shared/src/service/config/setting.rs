//! Settings as data: names, defaults and meanings.

/// One environment variable of a program.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// The variable's name.
    pub name: &'static str,
    /// What holds when it is unset or empty.
    pub default: Value,
    /// What it means, with its unit, in one or two sentences.
    pub meaning: &'static str,
    /// How its value may be shown.
    pub(super) display: Display,
}

/// The value of a setting that is unset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    /// This text, as it would be written in the environment.
    Text(&'static str),
    /// Something that only words can describe, such as a number that depends on the machine.
    Described(&'static str),
}

/// How the value of a setting may appear in logs and error texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Display {
    /// As it is.
    Plain,
    /// Without user, password and query.
    Url,
    /// Not at all.
    Secret,
}

/// Settings that belong together, under one heading of `--help`.
#[derive(Debug, Clone, Copy)]
pub struct Group {
    /// The heading.
    pub title: &'static str,
    /// The settings, in the order in which they are shown.
    pub settings: &'static [Setting],
}

/// What a program says about itself.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    /// The name of the executable.
    pub name: &'static str,
    /// What it does, in one sentence.
    pub about: &'static str,
    /// The version of its package.
    pub version: &'static str,
    /// The commit that it was built from, or `unknown`.
    pub commit: &'static str,
    /// All its settings.
    pub groups: &'static [Group],
    /// Names and prefixes (with a final `_`) of variables that belong to the other programs of the
    /// farm, so that both can share one environment.
    pub others: &'static [&'static str],
}

impl Setting {
    /// A setting that has `default` when it is unset.
    pub const fn new(name: &'static str, default: &'static str, meaning: &'static str) -> Self {
        Self::with(name, Value::Text(default), meaning)
    }

    /// A setting without a fixed default; `default` says what holds when it is unset.
    pub const fn optional(
        name: &'static str,
        default: &'static str,
        meaning: &'static str,
    ) -> Self {
        Self::with(name, Value::Described(default), meaning)
    }

    const fn with(name: &'static str, default: Value, meaning: &'static str) -> Self {
        Self {
            name,
            default,
            meaning,
            display: Display::Plain,
        }
    }

    /// The same setting, whose value is never shown.
    #[must_use]
    pub const fn secret(mut self) -> Self {
        self.display = Display::Secret;
        self
    }

    /// The same setting, whose value is a URL: it is shown without user, password and query.
    #[must_use]
    pub const fn url(mut self) -> Self {
        self.display = Display::Url;
        self
    }

    /// The value as it may be shown.
    pub fn shown(&self, value: &str) -> String {
        match self.display {
            Display::Plain => value.to_owned(),
            Display::Url => without_credentials(value),
            Display::Secret => HIDDEN.to_owned(),
        }
    }
}

/// What is shown instead of a secret.
const HIDDEN: &str = "[hidden]";

fn without_credentials(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return HIDDEN.to_owned();
    };
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    match rest.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://{HIDDEN}@{host}"),
        None => format!("{scheme}://{rest}"),
    }
}

impl Program {
    /// All settings, in the order of the groups.
    pub fn settings(&self) -> impl Iterator<Item = &'static Setting> {
        self.groups.iter().flat_map(|group| group.settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        let password = Setting::optional("PASSWORD", "none", "").secret();
        assert_eq!(password.shown("abc"), "[hidden]");
        let url = Setting::optional("URL", "none", "").url();
        for (value, shown) in [
            ("redis://host:1/2", "redis://host:1/2"),
            ("redis://me:p@ss@host:1", "redis://[hidden]@host:1"),
            (
                "redis+unix:///run/r.sock?pass=abc",
                "redis+unix:///run/r.sock",
            ),
            ("me:pass@host", "[hidden]"),
        ] {
            assert_eq!(url.shown(value), shown);
        }
    }
}
