//! The JavaScript engine: each contract runs in a page of Chromium, with a browser context and a
//! renderer process of its own.
//!
//! This is the only place that knows Chromium and its debugging protocol. The queue of a contract,
//! its replacement and its re-runs belong to `crate::contracts`.
//!
//! # Map
//!
//! ```text
//! worker ──pipe──> guard ──> browser ──> context ──> renderer ──> page ──> harness ──> contract
//! ```
//!
//! Which file owns which arrow:
//!
//! - worker to guard: `process/child` starts and ends it.
//! - guard to browser: `process/guard`, with the program of `process/find` and the flags of
//!   `process/flags`.
//! - worker to browser: `browser/start` connects to it; `fleet` replaces a browser that dies.
//! - browser to context, renderer and page: `page/blank` creates them, `browser/page_closer` ends
//!   them.
//! - renderer to machine: `process/confinement` checks its sandbox, `process/memory` and
//!   `isolation/watchdog` limit it.
//! - page to network: `isolation/interceptor` aborts every request but the one for the page's
//!   `isolation/document`.
//! - page to harness: `page/harness` puts its code into the page and calls it.
//! - harness to contract: `page/loaded` evaluates the executable; `instance` sends the calls.
//!
//! `engine` puts these together. `config` and `isolation/layers` are at the bottom.
//!
//! # The life of a page
//!
//! | state | held by | next |
//! |---|---|---|
//! | opening | `page/blank` | blank; closing if its renderer ends |
//! | blank | `page_pool` | loading, when a load takes it |
//! | loading | `page/loaded` | awake; closing if the executable is refused |
//! | awake | `instance` | frozen, a second after its last call |
//! | frozen | `instance` | awake, with its next call |
//! | lost | `instance` | closing; the page died, or a call ran over its limit |
//! | closing | `browser/page_closer` | gone, with its context and renderers |
//!
//! When a browser dies, its pages die with it, whatever their state. Dropping a page in any state
//! closes it. A contract's page never becomes blank again: it is never used for another contract.
//!
//! # The connection
//!
//! A worker speaks to each browser over one private pipe (`cdp`). Every message of every page goes
//! through it, and through one thread of the browser. So nothing is read of a page's texts beyond a
//! limit, pages that flood that thread are closed (`isolation/floods`), and no call is blamed for
//! the time that the browser was stalled (`browser/stalls`).

mod browser;
mod cdp;
mod config;
mod engine;
mod fleet;
mod instance;
mod isolation;
mod page;
mod page_pool;
mod process;

pub use config::ChromiumConfig;
pub use engine::Chromium;
pub use instance::ContractPage;
pub use isolation::layers::{Layer, Layers};
pub use process::error::LaunchError;
pub use process::find::find;
pub use process::guard::run_if_asked;
pub use process::uids::{Uids, check_uids};
