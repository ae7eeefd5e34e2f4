//! Whether callers need a key or a token.

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use shared::service::config::{Group, Reader, Setting};

use super::tokens::{KeySource, KeysUrl, TokenConfig};

const AUTH: Setting = Setting::optional(
    "AUTH",
    "off on a loopback address; otherwise it must be set",
    "How callers prove who they are: keys, jwt, or keys,jwt; or off if whoever reaches the api may do everything.",
);
const ADMIN_KEY_FILE: Setting = Setting::optional(
    "ADMIN_KEY_FILE",
    "none",
    "A file with a key that permits everything. If it does not exist, a key is made for it.",
);

const JWT_ISSUER: Setting = Setting::optional(
    "JWT_ISSUER",
    "none",
    "Who issues the tokens of callers: their claim iss.",
);
const JWT_AUDIENCE: Setting = Setting::optional(
    "JWT_AUDIENCE",
    "none",
    "Whom the tokens must be for: their claim aud.",
);
const JWT_KEYS_FILE: Setting = Setting::optional(
    "JWT_KEYS_FILE",
    "none",
    "A file with the issuer's public keys, a JSON Web Key Set.",
);
const JWT_KEYS_URL: Setting = Setting::optional(
    "JWT_KEYS_URL",
    "none",
    "Where the issuer publishes this set instead: an https:// URL.",
);

const JWT_TENANT_CLAIM: Setting = Setting::optional(
    "JWT_TENANT_CLAIM",
    "none: tokens are for the default tenant",
    "The claim of a token that names its tenant. A token without it is refused then.",
);

/// The settings of this folder.
pub const ACCESS_SETTINGS: Group = Group {
    title: "Access",
    settings: &[
        AUTH,
        ADMIN_KEY_FILE,
        JWT_ISSUER,
        JWT_AUDIENCE,
        JWT_KEYS_FILE,
        JWT_KEYS_URL,
        JWT_TENANT_CLAIM,
    ],
};

/// How callers prove who they are. Nothing: they need not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Auth {
    /// By a key.
    pub keys: bool,
    /// By a token of an identity provider.
    pub tokens: bool,
}

impl Auth {
    /// Whether whoever reaches the api may do everything.
    pub fn is_off(self) -> bool {
        self == Self::default()
    }
}

/// A text is none of the values of `AUTH`.
#[derive(Debug, thiserror::Error)]
#[error("must be off, keys, jwt or keys,jwt")]
pub struct InvalidAuth;

impl FromStr for Auth {
    type Err = InvalidAuth;

    fn from_str(text: &str) -> Result<Self, InvalidAuth> {
        if text == "off" {
            return Ok(Self::default());
        }
        let mut auth = Self::default();
        for way in text.split(',') {
            match way.trim() {
                "keys" => auth.keys = true,
                "jwt" => auth.tokens = true,
                _ => return Err(InvalidAuth),
            }
        }
        Ok(auth)
    }
}

/// Who may use the api.
#[derive(Debug, Clone)]
pub struct AccessConfig {
    /// `AUTH`.
    pub auth: Auth,
    /// `ADMIN_KEY_FILE`.
    pub admin_key_file: Option<PathBuf>,
    /// The settings that begin with `JWT_`.
    pub tokens: Option<TokenConfig>,
}

impl AccessConfig {
    /// Reads the settings of an api that listens on `host`.
    pub fn read(reader: &mut Reader, host: &str) -> Self {
        let is_set = reader.env().text(AUTH.name).is_some();
        let auth = reader.parse_optional(&AUTH).unwrap_or_default();
        if !is_set && !is_loopback(host) {
            let reason = format!(
                "must be set to keys, jwt or off, because other machines reach EXECUTION_API_HOST={host}"
            );
            reader.refuse(&AUTH, "", reason);
        }
        Self {
            auth,
            admin_key_file: reader.text(&ADMIN_KEY_FILE).map(PathBuf::from),
            tokens: auth.tokens.then(|| tokens(reader)),
        }
    }
}

/// What tokens must say. Without it, every token of the issuer would do, whomever it is for.
fn tokens(reader: &mut Reader) -> TokenConfig {
    let tenant_claim = reader.text(&JWT_TENANT_CLAIM);
    let file = reader.text(&JWT_KEYS_FILE).map(PathBuf::from);
    let url: Option<KeysUrl> = reader.parse_optional(&JWT_KEYS_URL);
    let keys = match (file, url) {
        (Some(_), Some(_)) => {
            reader.refuse(
                &JWT_KEYS_URL,
                "",
                "cannot be set together with JWT_KEYS_FILE",
            );
            None
        }
        (Some(file), None) => Some(KeySource::File(file)),
        (None, Some(url)) => Some(KeySource::Url(url)),
        (None, None) => {
            reader.refuse(
                &JWT_KEYS_FILE,
                "",
                "or JWT_KEYS_URL must be set, because AUTH has jwt",
            );
            None
        }
    };
    let mut needed = |setting: &Setting| {
        let text = reader.text(setting);
        if text.is_none() {
            reader.refuse(setting, "", "must be set, because AUTH has jwt");
        }
        text.unwrap_or_default()
    };
    TokenConfig {
        issuer: needed(&JWT_ISSUER),
        audience: needed(&JWT_AUDIENCE),
        // Otherwise the settings were refused.
        keys: keys.unwrap_or_else(|| KeySource::File(PathBuf::new())),
        tenant_claim,
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

    const KEYS: Auth = Auth {
        keys: true,
        tokens: false,
    };

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
            assert_eq!(read(|_| None, host), Ok(Auth::default()), "{host}");
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
                error.starts_with("AUTH=: must be set to keys, jwt or off"),
                "{error}"
            );
            let off = |name: &str| (name == "AUTH").then(|| "off".to_owned());
            assert_eq!(read(off, host), Ok(Auth::default()));
            let keys = |name: &str| (name == "AUTH").then(|| "keys".to_owned());
            assert_eq!(read(keys, host), Ok(KEYS));
        }
        let wrong = |name: &str| (name == "AUTH").then(|| "on".to_owned());
        assert_eq!(
            read(wrong, "::1"),
            Err("AUTH=on: must be off, keys, jwt or keys,jwt".to_owned())
        );
    }

    #[test]
    fn tokens_need_an_issuer_an_audience_and_keys() {
        let jwt = |name: &str| (name == "AUTH").then(|| "keys, jwt".to_owned());
        let error = read(jwt, "::1").unwrap_err();
        for name in ["JWT_ISSUER", "JWT_AUDIENCE"] {
            assert!(error.contains(&format!("{name}=: must be set")), "{error}");
        }
        assert!(
            error.contains("JWT_KEYS_FILE=: or JWT_KEYS_URL must be set"),
            "{error}"
        );
        let both = |name: &str| match name {
            "AUTH" => Some("jwt".to_owned()),
            "JWT_KEYS_URL" => Some("https://id.example/keys".to_owned()),
            name => name.starts_with("JWT_").then(|| "x".to_owned()),
        };
        let error = read(both, "::1").unwrap_err();
        assert!(
            error.starts_with("JWT_KEYS_URL=: cannot be set together"),
            "{error}"
        );
        let all = |name: &str| match name {
            "AUTH" => Some("jwt".to_owned()),
            "JWT_ISSUER" | "JWT_AUDIENCE" | "JWT_KEYS_FILE" => Some("x".to_owned()),
            _ => None,
        };
        let auth = read(all, "0.0.0.0").unwrap();
        assert!(auth.tokens && !auth.keys && !auth.is_off());
    }
}
