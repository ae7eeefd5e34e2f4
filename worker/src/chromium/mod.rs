//! The JavaScript engine: contracts in pages of Chromium, one page, one browser context and one
//! renderer process each.
//!
//! [`Chromium`] keeps a number of browser processes running and places pages in them; a
//! [`ContractPage`] is one contract. From the outside in:
//!
//! - `guard`, `launch`, `process`, `cgroup`: processes. Nothing of a browser outlives the worker.
//! - `browser`, `interceptor`, `deaths`, `reaper`: one browser, what its pages may fetch (nothing), how it
//!   is known that they end, how they are ended.
//! - `confinement`, `watchdog`: whether the sandbox holds, and what pages do behind the worker's back.
//! - `layers`: which protections are on; all, but for the attack suite.
//! - `page`, `cdp`: one page, from its making to the loaded contract; `spares`: pages made ahead;
//!   `wire`: the connection over which pages are called.
//! - `harness`: the code in the page that makes the calls, and what is said to it; `handle`: the worker's
//!   hold of it.
//! - `instance`: calls, their clocks, and what becomes of them; `lanes`: whose turn it is.
//!
//! This is the only place that knows Chromium and chromiumoxide. What a contract is to the farm,
//! its queue and its re-runs belong to `crate::contracts`.

mod browser;
mod cdp;
mod config;
mod engine;
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
pub use process::guard::{check_user, run_if_asked};
