//! The first key, with which others are made: from `ADMIN_KEY_FILE`, or by the command
//! `execution-api keys create --admin`.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command};
use secrecy::{ExposeSecret, SecretString};
use shared::protocol::quota::Quota;
use shared::protocol::tenant::Tenant;
use shared::queue::key_store::{Added, KEYS_KEPT, KeyRecord, KeyStore};
use shared::queue::{Queue, QueueError, RedisConfig};

use super::{KeyTable, Scope, Scopes, Token};

/// Why there is no first key.
#[derive(Debug, thiserror::Error)]
pub enum FirstKeyError {
    /// The file cannot be read or written.
    #[error("ADMIN_KEY_FILE {0}: {1}")]
    File(PathBuf, io::Error),
    /// It holds something else.
    #[error("ADMIN_KEY_FILE {0} does not hold a key of the form esk_ID_SECRET")]
    NoKey(PathBuf),
    /// There are too many keys.
    #[error("there are {KEYS_KEPT} keys already: revoke some")]
    Full,
    /// The store cannot be used.
    #[error(transparent)]
    Queue(#[from] QueueError),
}

/// Registers the key of a file. If the file does not exist, makes a key and writes it there.
///
/// A key that was registered before stays as it is: one that was revoked is not valid again.
pub(crate) async fn register(keys: &KeyTable, file: &Path) -> Result<(), FirstKeyError> {
    let token = match read(file) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            write(file, &Token::generate()).and_then(|()| read(file))
        }
        read => read,
    };
    let token = token.map_err(|error| FirstKeyError::File(file.to_owned(), error))?;
    let token = Token::read(&token).ok_or_else(|| FirstKeyError::NoKey(file.to_owned()))?;
    let store = keys.store();
    let record = KeyRecord {
        is_from_file: true,
        ..record(&token, "ADMIN_KEY_FILE", &Scopes::all(), store.now_ms())
    };
    match store.add(&token.id, &record).await? {
        Added::Full => return Err(FirstKeyError::Full),
        Added::Stored => tracing::info!(key = token.id, "first key registered"),
        Added::IdTaken => {
            let known = keys.find(&token.id).await.ok().flatten();
            let is_valid =
                |key: &super::Key| key.is_valid(store.now_ms()) && key.hash.equals(&token.hash);
            if known.is_some_and(|key| !is_valid(&key)) {
                tracing::warn!(
                    key = token.id,
                    "the key in ADMIN_KEY_FILE is not valid any more"
                );
            }
        }
    }
    Ok(())
}

/// The record of a new key of the default tenant.
pub(crate) fn record(token: &Token, name: &str, scopes: &Scopes, now: u64) -> KeyRecord {
    KeyRecord {
        name: name.to_owned(),
        tenant: Tenant::default(),
        quota: Quota::default(),
        sha256: token.hash.to_hex(),
        scopes: scopes.to_texts(),
        created: now,
        expires: None,
        is_from_file: false,
        revoked: None,
    }
}

fn read(file: &Path) -> io::Result<SecretString> {
    Ok(fs::read_to_string(file)?.trim().to_owned().into())
}

/// Writes a key, unless another process was faster. The file is complete from the beginning, and
/// only its owner may read it.
fn write(file: &Path, token: &Token) -> io::Result<()> {
    let unfinished = file.with_extension(format!("{}.new", token.id));
    let mut open = OpenOptions::new();
    let mut new = open
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&unfinished)?;
    let written = writeln!(new, "{}", token.text.expose_secret());
    let linked = written.and_then(|()| fs::hard_link(&unfinished, file));
    fs::remove_file(&unfinished)?;
    match linked {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        linked => linked,
    }
}

/// `keys create`, for the command line.
pub fn command() -> Command {
    let admin = Arg::new("admin")
        .long("admin")
        .action(ArgAction::SetTrue)
        .help("Permit everything");
    let scope = Arg::new("scope")
        .long("scope")
        .action(ArgAction::Append)
        .value_parser(|text: &str| text.parse::<Scope>())
        .required_unless_present("admin")
        .conflicts_with("admin")
        .help("What the key permits, such as contracts:execute:pay-*; may be repeated");
    let name = Arg::new("name")
        .long("name")
        .default_value("")
        .help("What to call it");
    let tenant = Arg::new("tenant")
        .long("tenant")
        .default_value(Tenant::DEFAULT)
        .value_parser(|text: &str| text.parse::<Tenant>())
        .help("The tenant whose contracts it is for");
    let create = Command::new("create")
        .about("Create a key and print it. It is not shown again")
        .args([admin, scope, name, tenant]);
    Command::new("keys")
        .about("Manage the keys of callers, with the same settings as the process that serves")
        .subcommand_required(true)
        .subcommand(create)
}

/// Carries out `keys create`: prints the new key alone, so that a shell can take it.
pub async fn run(redis: &RedisConfig, arguments: &ArgMatches) -> ExitCode {
    let created = match arguments.subcommand() {
        Some((_, create)) => create_key(redis, create).await,
        None => return ExitCode::FAILURE,
    };
    let printed = match created {
        Ok(token) => writeln!(io::stdout(), "{}", token.text.expose_secret()),
        Err(error) => {
            eprintln!("execution-api: {error}");
            return ExitCode::FAILURE;
        }
    };
    if printed.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

async fn create_key(redis: &RedisConfig, arguments: &ArgMatches) -> Result<Token, FirstKeyError> {
    let scopes = if arguments.get_flag("admin") {
        Scopes::all()
    } else {
        let given = arguments.get_many::<Scope>("scope").unwrap_or_default();
        given.cloned().collect()
    };
    let name = arguments
        .get_one::<String>("name")
        .map_or("", String::as_str);
    let tenant = arguments.get_one::<Tenant>("tenant");
    let store = KeyStore::new(Queue::connect(redis).await?);
    let token = Token::generate();
    let record = KeyRecord {
        tenant: tenant.cloned().unwrap_or_default(),
        ..record(&token, name, &scopes, store.now_ms())
    };
    match store.add(&token.id, &record).await? {
        Added::Full => Err(FirstKeyError::Full),
        Added::Stored | Added::IdTaken => Ok(token),
    }
}
