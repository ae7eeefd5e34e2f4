//! Whether callers need a key.

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use shared::service::config::{Group, Reader, Setting};

const AUTH: Setting = Setting::optional(
    "AUTH",
    "off on a loopback address; otherwise it must be set",
    "How callers prove who they are: keys, or off if whoever reaches the api may do everything.",
);
const ADMIN_KEY_FILE: Setting = Setting::optional(
    "ADMIN_KEY_FILE",
    "none",
    "A file with a key that permits everything. If it does not exist, a key is made for it.",
);

/// The settings of this folder.
pub const ACCESS_SETTINGS: Group = Group {
    title: "Access",
    settings: &[AUTH, ADMIN_KEY_FILE],
};

/// How callers prove who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Auth {
    /// They need not.
    #[default]
    Off,
    /// By a key.
    Keys,
}

/// A text is none of the values of `AUTH`.
#[derive(Debug, thiserror::Error)]
#[error("must be off or keys")]
pub struct InvalidAuth;

impl FromStr for Auth {
    type Err = InvalidAuth;

    fn from_str(text: &str) -> Result<Self, InvalidAuth> {
        match text {
            "off" => Ok(Self::Off),
            "keys" => Ok(Self::Keys),
            _ => Err(InvalidAuth),
        }
    }
}

/// Who may use the api.
#[derive(Debug, Clone)]
pub struct AccessConfig {
    /// `AUTH`.
    pub auth: Auth,
    /// `ADMIN_KEY_FILE`.
    pub admin_key_file: Option<PathBuf>,
}

impl AccessConfig {
    /// Reads the settings of an api that listens on `host`.
    pub fn read(reader: &mut Reader, host: &str) -> Self {
        let is_set = reader.env().text(AUTH.name).is_some();
        let auth = reader.parse_optional(&AUTH).unwrap_or_default();
        if !is_set && !is_loopback(host) {
            let reason = format!(
                "must be set to keys or off, because other machines reach EXECUTION_API_HOST={host}"
            );
            reader.refuse(&AUTH, "", reason);
        }
        Self {
            auth,
            admin_key_file: reader.text(&ADMIN_KEY_FILE).map(PathBuf::from),
        }
    }
}

/// Whether only this machine reaches an address. Other names than `localhost` may change.
fn is_loopback(host: &str) -> bool {
    let is_address = |address: IpAddr| address.to_canonical().is_loopback();
    host.parse()
        .map_or_else(|_| host.eq_ignore_ascii_case("localhost"), is_address)
}

#[cfg(test)]
mod tests {
    use shared::service::config::Env;

    use super::*;

    fn read(env: fn(&str) -> Option<String>, host: &str) -> Result<Auth, String> {
        let mut reader = Reader::new(Env::table(env));
        let config = AccessConfig::read(&mut reader, host);
        reader
            .finish()
            .map(|()| config.auth)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn an_api_that_others_reach_is_told_who_may_use_it() {
        for host in [
            "127.0.0.1",
            "127.1.2.3",
            "::1",
            "::ffff:127.0.0.1",
            "localhost",
        ] {
            assert_eq!(read(|_| None, host), Ok(Auth::Off), "{host}");
        }
        for host in [
            "0.0.0.0",
            "::",
            "10.0.0.1",
            "api.example",
            "localhost.example",
        ] {
            let error = read(|_| None, host).unwrap_err();
            assert!(
                error.starts_with("AUTH=: must be set to keys or off"),
                "{error}"
            );
            let off = |name: &str| (name == "AUTH").then(|| "off".to_owned());
            assert_eq!(read(off, host), Ok(Auth::Off));
            let keys = |name: &str| (name == "AUTH").then(|| "keys".to_owned());
            assert_eq!(read(keys, host), Ok(Auth::Keys));
        }
        let wrong = |name: &str| (name == "AUTH").then(|| "on".to_owned());
        assert_eq!(
            read(wrong, "::1"),
            Err("AUTH=on: must be off or keys".to_owned())
        );
    }
}
