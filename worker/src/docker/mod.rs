//! The Docker engine: trusted contract images. Each contract runs in a container and a network of
//! its own and is called over HTTP.
//!
//! [`Docker`] is the connection to the daemon. A [`ContractContainer`] is one contract. From the
//! outside in:
//!
//! - `engine`: starts and stops the engine, and starts instances.
//! - `config`: the settings; `error`: what the daemon's errors mean for a load.
//! - `daemon`: the connection to the daemon and its state; `location`: where this worker runs.
//! - `events`, `death_watch`: how the death of a container is detected and reported.
//! - `leftovers`: finds and removes what dead workers left with the daemon.
//! - `labels`: which worker a container belongs to.
//! - `allowed`, `image`, `tar`: the images that contracts run.
//! - `network`, `subnets`, `firewall`, `privileges`: what a contract may do, which is little.
//! - `container`: one container, from its creation to its removal; `unreachable`: why one that
//!   runs cannot be called.
//! - `client`, `instance`: calls over HTTP, their time limits and their outcomes.
//! - `output`: what a container prints, as the daemon keeps it.
//!
//! This is the only module that uses Docker and bollard. The queue of a contract, its re-runs and
//! its quarantine belong to `crate::contracts`.

mod allowed;
mod client;
mod config;
mod container;
mod daemon;
mod death_watch;
mod engine;
mod error;
mod events;
mod firewall;
mod image;
mod instance;
mod labels;
mod leftovers;
mod location;
mod network;
mod output;
mod privileges;
mod subnets;
mod tar;
mod unreachable;

pub use self::allowed::AllowedImages;
pub use self::config::{CONTAINER_SETTINGS, DOCKER_SETTINGS, DockerConfig, Privileges, Registry};
pub use self::daemon::Docker;
pub use self::error::DockerError;
pub use self::instance::ContractContainer;
pub(crate) use self::leftovers::Leftover;
pub use self::subnets::Range;
