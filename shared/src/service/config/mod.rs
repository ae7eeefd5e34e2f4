//! Configuration from environment variables: what a setting is, and how a program reads its own.
//!
//! Each program lists its [`Setting`]s in its own `config.rs`. The list is the one source of names,
//! defaults and meanings: `--help` prints it, [`Reader`] applies it, and [`unknown()`] compares the
//! environment with it.

mod error;
mod reader;
mod setting;
mod unknown;

pub use error::{ConfigError, ConfigErrors};
pub use reader::{Env, Reader};
pub use setting::{Group, Program, Setting, Value};
pub use unknown::{Unknown, unknown};
